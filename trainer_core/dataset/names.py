"""Names of files inside a dataset: which are allowed, what they mean, how they sort.

A name is only ever a label. No file is created, and none is opened in a zip, by a name that came from the zip.

Covered: absolute names and `..`, drive letters, backslashes, NUL and other control characters, text that is not
Unicode, names too long for any file system, and two names that are one on a system that ignores case or normalises
Unicode. Not covered: look-alike letters and right-to-left marks, which can make a name read as another on screen.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from .refusal import Refused

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
CAPTION_SUFFIX = ".txt"
PHONE_SUFFIXES = (".heic", ".heif", ".avif")
ARCHIVE_SUFFIXES = (".zip", ".7z", ".rar", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst")

MAX_NAME_BYTES = 1024
"""Longer than the paths that people make (Windows stops at 260 characters); keeps messages and memory small."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DIGITS = re.compile("[0-9]+")
_DRIVE = re.compile(r"[A-Za-z]:/")


def clean_name(name: str) -> str:
    """The name with `/` between its parts, in Unicode NFC, without empty or `.` parts ("" for the top folder).

    Raises `Refused` for a name that no honest tool writes.
    """
    shown = ascii(name[:80])
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise Refused(f"the file name {shown} is not valid Unicode; rename the file") from None
    if size > MAX_NAME_BYTES:
        raise Refused(f"the file name {shown}... is {size} bytes long, more than {MAX_NAME_BYTES}; shorten it")
    if _CONTROL.search(name):
        raise Refused(f"the file name {shown} contains control characters; rename the file")
    name = unicodedata.normalize("NFC", name.replace("\\", "/"))
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or _DRIVE.match(name) or ".." in parts:
        raise Refused(f"the file name {shown} points outside the dataset; make the archive again from its folder")
    return "/".join(parts)


def check_distinct(names: Iterable[str]) -> None:
    """Raises `Refused` where two cleaned names would be one file on a system that ignores case or normalises."""
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", name.casefold())
        if key in seen:
            raise Refused(f"it holds {seen[key]!r} and {name!r}, which most systems take for one file; rename one")
        seen[key] = name


def suffix_of(name: str) -> str:
    """The extension in lower case with its dot, or ""."""
    base = name.rpartition("/")[2]
    stem, dot, extension = base.rpartition(".")
    return dot + extension.lower() if stem else ""


def stem_of(name: str) -> str:
    """The name with its folders and without its extension: what an image and its caption have in common."""
    return name[: len(name) - len(suffix_of(name))]


def is_system_file(name: str) -> bool:
    """What macOS and other systems add unasked: `__MACOSX` folders, `._*` twins, dotfiles and dot-folders."""
    return any(part == "__MACOSX" or part.startswith(".") for part in name.split("/"))


def is_image(name: str) -> bool:
    return suffix_of(name) in IMAGE_SUFFIXES


def is_mask(name: str) -> bool:
    """An image whose stem ends in `_mask`, as some trainers want them beside the images."""
    return is_image(name) and stem_of(name).lower().endswith("_mask")


def natural_key(name: str) -> tuple[str, str]:
    """Sort key of a cleaned name: folder by folder, `img2` before `img10`, the same order on every system.

    One short text and no list of its parts: a hostile archive has many names of a thousand parts each. Folders end in
    and numbers begin with characters that no cleaned name holds and that sort before all others.
    """
    return _DIGITS.sub(_sortable_number, name.casefold().replace("/", "\0")), name


def _sortable_number(digits: re.Match[str]) -> str:
    """Numbers compare by how many digits they have, and then digit by digit."""
    significant = digits[0].lstrip("0")
    return "\1" + chr(len(significant)) + significant
