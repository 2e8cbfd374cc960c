"""Text on pictures: a font that can draw it, and lines that fit.

Pillow brings one font, for basic Latin. Other scripts are drawn with a font of the system where there is one; what
no font can draw becomes one box for each run of such characters, so that it is seen that something stood there.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import unicodedata

from PIL import ImageFont

# Found by name in the system's font folders: Linux, Windows, macOS.
_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "segoeui.ttf",
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "Hiragino Sans GB.ttc",
    "Arial Unicode.ttf",
)
_NO_GLYPH = "\uffff"
_MAX_CHARACTERS = 4000
"""What is looked at of a text; no picture has room for more."""
_JSON_SUMMARY = "high_level_description"

Font = ImageFont.FreeTypeFont


def label_text(text: str) -> str:
    """A prompt or caption as one line: of a JSON caption, the sentence that says what is in the picture."""
    text = text[: _MAX_CHARACTERS * 4]
    if text.lstrip().startswith("{"):
        try:
            caption = json.loads(text)
        except (ValueError, RecursionError):
            caption = None
        summary = caption.get(_JSON_SUMMARY) if isinstance(caption, dict) else None
        if isinstance(summary, str) and summary.strip():
            text = summary
    return " ".join(text[:_MAX_CHARACTERS].split())


def font_for(text: str, size_px: int) -> Font:
    """Pillow's own font, or the font of the system that lacks the fewest characters of `text`."""
    missing = len(_missing(text, None))
    best: str | None = None
    for name in _SYSTEM_FONTS if missing else ():
        if _open(name, size_px) is not None and (lacks := len(_missing(text, name))) < missing:
            best, missing = name, lacks
        if not missing:
            break
    font = _open(best, size_px)
    if font is None:
        raise AssertionError("unreachable: Pillow's own font is always there")
    return font


def drawable(text: str, font: Font) -> str:
    """`text` without what the font has no glyph for: letters lose accents, other characters become a box."""
    pieces = []
    for character in text:
        if has_glyph(font, character):
            pieces.append(character)
            continue
        plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
        if plain and plain != character and all(has_glyph(font, c) for c in plain):
            pieces.append(plain)
        elif unicodedata.category(character) not in ("Mn", "Me", "Cf", "Cc", "Cs"):
            pieces.append(_NO_GLYPH)
    return "".join(c if c == _NO_GLYPH else "".join(run) for c, run in itertools.groupby(pieces))


def fit_lines(text: str, font: Font, width_px: float, max_lines: int) -> list[str]:
    """`text` in at most `max_lines` lines of at most `width_px`, broken between words; cut text ends in "...".

    Returns [] for a text without anything to draw, or where not even one character fits.
    """
    rest = drawable(" ".join(text[:_MAX_CHARACTERS].split()), font)
    lines: list[str] = []
    while rest and len(lines) < max_lines:
        if font.getlength(rest) <= width_px:
            return [*lines, rest]
        if len(lines) == max_lines - 1:
            room = width_px - font.getlength("...")
            cut = _prefix(rest, font, room).rstrip(" ,.;:") if room > 0 else ""
            return [*lines, cut + "..."] if cut else lines
        line = _prefix(rest, font, width_px)
        if not line:
            return lines
        words, space, _torn = line.rpartition(" ")
        # Scripts without spaces, and addresses, are broken where the line is full.
        if space and 2 * len(words) >= len(line) and not rest[len(line) :].startswith(" "):
            line = words
        lines.append(line.rstrip())
        rest = rest[len(line) :].lstrip()
    return lines


@functools.lru_cache(maxsize=8192)
def has_glyph(font: Font, character: str) -> bool:
    """Whether the font can draw it; a space counts as drawn."""
    if character.isspace():
        return True
    if character.isascii():
        return character.isprintable()
    return bytes(font.getmask(character)) != bytes(font.getmask(_NO_GLYPH))


def _prefix(text: str, font: Font, width_px: float) -> str:
    """The longest start of `text` that is not wider; "" if not even one character fits."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(text[:middle]) <= width_px:
            low = middle
        else:
            high = middle - 1
    return text[:low]


def _missing(text: str, name: str | None) -> set[str]:
    font = _open(name, 16)
    characters = set(re.sub(r"\s", "", text[:_MAX_CHARACTERS]))
    return characters if font is None else {c for c in characters if not has_glyph(font, c)}


@functools.lru_cache(maxsize=64)
def _open(name: str | None, size_px: int) -> Font | None:
    if name is None:
        own = ImageFont.load_default(size_px)
        return own if isinstance(own, ImageFont.FreeTypeFont) else None
    try:
        return ImageFont.truetype(name, size_px)
    except OSError:  # not on this system
        return None
