"""The caption of an image: from its text file, or the default.

Covered: files that are not UTF-8 or too long are refused. Not covered: what the text says.
"""

from __future__ import annotations

from ..errors import SettingsError
from .refusal import Refused

MAX_CAPTION_BYTES = 64 * 2**10
"""The longest JSON captions have 10 KB; the text encoder reads a few thousand words."""
MAX_CAPTIONS_BYTES = 256 * 2**20
"""Of all captions together, because they are all held in memory."""


def decode_caption(data: bytes) -> str:
    """The text as it was written, but for a byte order mark and trailing line breaks. Raises `Refused`."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(f"is not UTF-8 text (byte {error.start + 1}); save it again as UTF-8") from None
    if "\0" in text:
        raise Refused("contains NUL characters, as UTF-16 text does; save it again as UTF-8")
    return text.rstrip("\r\n")


def checked_caption(text: str) -> str:
    """A caption that was typed: as `decode_caption` would read it from a file. Raises `Refused`."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise Refused("holds half of a surrogate pair; type it again") from None
    if len(data) > MAX_CAPTION_BYTES:
        raise Refused(f"has {len(data):,} bytes, more than {MAX_CAPTION_BYTES:,}; shorten it")
    if not text.strip():
        raise Refused("is empty; write a text")
    return decode_caption(data)


def usable_default(default_caption: str, force: bool) -> str:
    """The default caption as it will be used, "" for none. Raises `SettingsError` where there is none to `force`."""
    caption = default_caption.rstrip("\r\n") if default_caption.strip() else ""
    if force and not caption:
        raise SettingsError("force_default_caption is on, but default_caption is empty. Write one or switch it off.")
    return caption
