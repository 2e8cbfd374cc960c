"""Captions that were corrected in ComfyUI, in a file of their own beside the zip or folder, which stays as it is.

`pets.zip` has them in `pets.zip.captions.json`:

    {"ideogram4_lora_trainer": "captions", "version": 1, "captions": {
      "set/00.png": {"caption": "a red disc", "replaces": SHA-256 of the caption it replaces, "image_bytes": 1234}}}

A correction belongs to the caption that it was made for. Where the dataset holds another one by now, or none is in it
and the image has another size in bytes, it is passed over, which is told, and kept.

Covered: a file that is a link, too large, not JSON, of another form, of a newer version, with text that no caption may
be; a crash while it is written. Not covered: two processes that write it at the same moment: one of the two is lost.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DatasetUnreadable, SaveFailed, SettingsError
from ..storage import open_regular, replace_file
from .captions import checked_caption
from .dataset import Dataset, Item
from .listing import CORRECTIONS_SUFFIX
from .names import clean_name
from .refusal import Refused

MAX_FILE_BYTES = 64 * 2**20
"""Ten thousand of the longest JSON captions."""
MAX_CORRECTIONS = 100_000
"""As many as a dataset may hold files."""

_MARK, _VERSION = "captions", 1


@dataclasses.dataclass(frozen=True, slots=True)
class Correction:
    """A caption that replaces another one."""

    caption: str
    replaces: str
    """SHA-256 of the caption that it was made for, in hexadecimal; of "" where there was none."""
    image_bytes: int
    """Size of the image file that it was made for."""

    def fits(self, original: str, image_bytes: int) -> bool:
        """Whether it was made for the image whose own caption is `original`, "" for none."""
        return self.replaces == caption_hash(original) and (bool(original) or self.image_bytes == image_bytes)


def corrections_path(dataset: Path) -> Path:
    """Where the corrected captions of a zip or folder are, or would be; beside what a link leads to."""
    real = Path(os.path.realpath(dataset))
    return real.with_name(real.name + CORRECTIONS_SUFFIX)


def caption_hash(caption: str) -> str:
    """Which caption a correction replaces; one of white space alone counts as none."""
    return hashlib.sha256(caption.encode() if caption.strip() else b"").hexdigest()


def read_corrections(dataset: Path) -> dict[str, Correction]:
    """The corrections of a zip or folder by name of the image, {} where there are none. Raises `DatasetUnreadable`."""
    path = corrections_path(dataset)
    try:
        with open_regular(path, os.O_RDONLY) as file:
            data = file.read(MAX_FILE_BYTES + 1)
        return _parsed(data)
    except FileNotFoundError:
        return {}
    except OSError as error:
        fault = f"cannot be read: {error.strerror or error}"
    except Refused as refusal:
        fault = str(refusal)
    raise DatasetUnreadable(
        f"{path.name}, which holds corrected captions for {dataset.name}, {fault}. Repair it, or move it out of the "
        "folder to go on without the corrections."
    )


def write_corrections(dataset: Path, corrections: Mapping[str, Correction]) -> None:
    """Put `corrections` in the place of those that are there; with none left, remove the file. Raises `SaveFailed`."""
    path = corrections_path(dataset)
    entries = {name: dataclasses.asdict(correction) for name, correction in corrections.items()}
    whole = {"ideogram4_lora_trainer": _MARK, "version": _VERSION, "captions": entries}
    data = json.dumps(whole, ensure_ascii=False, indent=1).encode()
    if len(data) > MAX_FILE_BYTES or len(entries) > MAX_CORRECTIONS:
        raise SaveFailed(
            f"{path.name} would be larger than can be read again ({MAX_FILE_BYTES // 2**20} MiB).",
            "Put the corrected captions into the dataset itself.",
        )
    try:
        if entries:
            replace_file(path, [data])
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise SaveFailed(f"{path.name} was not saved: {error.strerror or error}.", "Try again.") from error


def own_caption(item: Item) -> str:
    """What the dataset itself says of an image, "" for nothing."""
    if item.caption_source == "corrected":
        return item.original_caption
    return item.caption if item.caption_source == "file" else ""


def correct(path: Path, dataset: Dataset, item: Item, caption: str | None) -> None:
    """Save the caption of one image of `dataset`, which was opened from `path`; None takes a correction back.

    Corrections that are passed over are kept, but for one of the same image. Raises `SettingsError` for a text that
    cannot be a caption, `DatasetUnreadable` where the file that is there cannot be read, and `SaveFailed`.
    """
    corrections = read_corrections(path)
    try:
        text = None if caption is None else checked_caption(caption)
    except Refused as refusal:
        raise SettingsError(f"The caption of {item.name} {refusal}.") from None
    original = own_caption(item)
    if text is None or text == original:
        if item.name not in corrections:
            return
        del corrections[item.name]
    else:
        size = next(file.size for file in dataset.container.files if file.name == item.name)
        corrections[item.name] = Correction(text, caption_hash(original), size)
    write_corrections(path, corrections)


def _parsed(data: bytes) -> dict[str, Correction]:
    if len(data) > MAX_FILE_BYTES:
        raise Refused(f"has more than {MAX_FILE_BYTES // 2**20} MiB")
    try:
        whole = json.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise Refused("is nested too deeply") from None
    except ValueError as error:  # neither UTF-8 nor JSON, or a number of thousands of digits
        raise Refused(f"is not JSON ({str(error).partition(';')[0][:200]})") from None
    if not isinstance(whole, dict) or whole.get("ideogram4_lora_trainer") != _MARK:
        raise Refused("is not a file of corrected captions")
    if whole.get("version") != _VERSION:
        raise Refused(f"has version {str(whole.get('version'))[:20]}, and only {_VERSION} is known here: update")
    entries = whole.get("captions")
    if not isinstance(entries, dict) or len(entries) > MAX_CORRECTIONS:
        raise Refused("holds no list of captions, or one too long")
    for name in entries:
        if not _is_clean(name):
            raise Refused(f"has an entry for {name[:80]!a}, which is no name in a dataset")
    return {name: _correction(name, entry) for name, entry in entries.items()}


def _is_clean(name: str) -> bool:
    try:
        return clean_name(name) == name != ""
    except Refused:
        return False


def _correction(name: str, entry: Any) -> Correction:
    values = entry if isinstance(entry, dict) else {}
    caption, replaces, image_bytes = (values.get(key) for key in ("caption", "replaces", "image_bytes"))
    if not isinstance(caption, str) or not isinstance(replaces, str) or type(image_bytes) is not int:
        raise Refused(f"has an entry that is not as it should be, for {name[:80]!a}")
    try:
        return Correction(checked_caption(caption), replaces, image_bytes)
    except Refused as refusal:
        raise Refused(f"has a caption for {name[:80]!a} that {refusal}") from None
