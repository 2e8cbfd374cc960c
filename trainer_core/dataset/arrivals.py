"""Files that somebody wants to send: which may become a dataset, judged by their names and sizes before any is sent.

Covered: names that lead out or that not every system can store, names that are one file on some systems, kinds of
files that no dataset has, sizes beyond what a dataset may have. What is in the files is judged when they are there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..errors import DatasetUnreadable
from ..paths import shown, storable_parts
from .captions import MAX_CAPTION_BYTES
from .images import MAX_IMAGE_BYTES
from .messages import name_some
from .names import (
    ARCHIVE_SUFFIXES,
    CAPTION_SUFFIX,
    IMAGE_SUFFIXES,
    MAX_NAME_BYTES,
    PHONE_SUFFIXES,
    check_distinct,
    is_image,
    suffix_of,
)
from .refusal import Refused
from .zip_directory import MAX_ARCHIVE_BYTES

MAX_FILES = 20_000
"""Ten thousand images with a caption each. More go into a zip."""
DEFAULT_FOLDER = "images"


@dataclasses.dataclass(frozen=True)
class Arrival:
    """What will be there when all files have arrived."""

    name: str
    """Of the zip or the folder."""
    is_zip: bool
    files: tuple[tuple[str, int], ...]
    """Name and bytes of each, in the order that was given; `/` between folders."""


def judge_arrival(files: Sequence[tuple[str, int]], folder_name: str = "") -> Arrival:
    """One zip alone, or images and captions, which go into a new folder called `folder_name`.

    files: name and bytes. Raises `DatasetUnreadable` and `NameRejected`.
    """
    if not files:
        raise DatasetUnreadable("Nothing was chosen. Choose a zip, or images and their .txt captions.")
    if any(suffix_of(name) == ".zip" for name, _ in files):
        return _zip_alone(files)
    if len(files) > MAX_FILES:
        raise DatasetUnreadable(f"{len(files):,} files are more than {MAX_FILES:,}. Put them into a zip.")
    _check_kinds([name for name, _ in files])
    cleaned = tuple((_storable(name), size) for name, size in files)
    try:
        check_distinct(name for name, _ in cleaned)
    except Refused as refusal:
        raise DatasetUnreadable(f"These files cannot be one dataset: {refusal}.") from None
    if not any(is_image(name) for name, _ in cleaned):
        raise DatasetUnreadable("There is no image among these files. Choose images together with their captions.")
    for name, size in cleaned:
        _check_size(name, size, MAX_IMAGE_BYTES if is_image(name) else MAX_CAPTION_BYTES)
    if sum(size for _, size in cleaned) > MAX_ARCHIVE_BYTES:
        raise DatasetUnreadable(f"These files have more than {MAX_ARCHIVE_BYTES // 2**30} GiB in all. Choose fewer.")
    return Arrival(_one_part(folder_name or DEFAULT_FOLDER), False, cleaned)


def _zip_alone(files: Sequence[tuple[str, int]]) -> Arrival:
    if len(files) > 1:
        raise DatasetUnreadable("Choose one zip alone, or images and captions without a zip.")
    ((name, size),) = files
    name = _one_part(name)
    _check_size(name, size, MAX_ARCHIVE_BYTES)
    return Arrival(name, True, ((name, size),))


def _check_kinds(names: Sequence[str]) -> None:
    odd = [name for name in names if suffix_of(name) not in (*IMAGE_SUFFIXES, CAPTION_SUFFIX)]
    if not odd:
        return
    advice = "Leave them out." if len(odd) > 1 else "Leave it out."
    if any(suffix_of(name) in PHONE_SUFFIXES for name in odd):
        advice = "Export HEIC and AVIF photos as JPEG or PNG."
    elif any(suffix_of(name) in ARCHIVE_SUFFIXES for name in odd):
        advice = "Of archives only a zip is read: make one."
    kinds = f"{', '.join(IMAGE_SUFFIXES)}, {CAPTION_SUFFIX} and .zip"
    raise DatasetUnreadable(f"Only {kinds} files can be used, not {name_some([shown(name) for name in odd])}. {advice}")


def _check_size(name: str, size: int, most: int) -> None:
    if size > most:
        raise DatasetUnreadable(f"{name} has {size:,} bytes, more than {most:,}. Make it smaller.")
    if size == 0 and suffix_of(name) != CAPTION_SUFFIX:
        raise DatasetUnreadable(f"{name} is empty. Choose another file.")


def _storable(name: str) -> str:
    cleaned = "/".join(storable_parts(name))
    if not cleaned or len(cleaned.encode()) > MAX_NAME_BYTES:
        raise DatasetUnreadable(f"{shown(name)} cannot be the name of a file. Rename it.")
    return cleaned


def _one_part(name: str) -> str:
    cleaned = _storable(name)
    if "/" in cleaned:
        raise DatasetUnreadable(f"{shown(name)} is in a folder. Give a name without one.")
    return cleaned
