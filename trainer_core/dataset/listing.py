"""Which files of a dataset are images, which are their captions, and why the others are passed over."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Protocol

from . import names
from .messages import name_some


class StoredFile(Protocol):
    """A file as a zip and a folder both list it."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int:
        """Bytes, as declared."""
        ...

    @property
    def unusable(self) -> str:
        """Why its contents must not be read, or ""."""
        ...


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A file that is not used."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of a dataset, sorted by their part in it."""

    images: tuple[StoredFile, ...]
    """In natural order of their names."""
    captions: Mapping[str, StoredFile]
    """By the stem, folders included, that they share with their image."""
    skipped: tuple[Skipped, ...]


CORRECTIONS_SUFFIX = ".captions.json"
"""Of the file beside a zip or folder that holds the captions which were corrected, see `corrections.py`."""
UNMATCHED = "caption without an image of the same base name"


def sort_files(files: Iterable[StoredFile]) -> Listing:
    """Pair images with captions inside their folder, and give a reason for everything else."""
    ordered = sorted(files, key=lambda file: names.natural_key(file.name))
    reasons = {file.name: _reason_to_skip(file) for file in ordered}
    images = tuple(file for file in ordered if names.is_image(file.name) and not reasons[file.name])
    stems = {names.stem_of(image.name) for image in images}
    captions = {}
    for file in ordered:
        if reasons[file.name] or names.is_image(file.name):
            continue
        if names.stem_of(file.name) in stems:
            captions[names.stem_of(file.name)] = file
        else:
            reasons[file.name] = UNMATCHED
    skipped = tuple(Skipped(name, reason) for name, reason in reasons.items() if reason)
    return Listing(images, captions, skipped)


def _reason_to_skip(file: StoredFile) -> str:
    if names.is_system_file(file.name):
        return "hidden or system file"
    if file.unusable:
        return file.unusable
    suffix = names.suffix_of(file.name)
    if file.name.endswith(CORRECTIONS_SUFFIX):
        return "corrected captions of another dataset"
    if names.is_mask(file.name):
        return "mask (its name ends in _mask)"
    if suffix in names.IMAGE_SUFFIXES or suffix == names.CAPTION_SUFFIX:
        return ""
    if suffix in names.ARCHIVE_SUFFIXES:
        return "archive inside the dataset: not opened"
    if suffix in names.PHONE_SUFFIXES:
        return "HEIC or AVIF photo: export it as JPEG or PNG"
    return "neither a .png, .jpg, .jpeg or .webp image nor a .txt caption"


def flattening_warnings(listing: Listing) -> tuple[str, ...]:
    """What a trainer that flattens folders, as fal's does, would lose of this dataset."""
    used = [file.name for file in (*listing.images, *listing.captions.values())]
    first: dict[str, str] = {}
    lost = []
    for name in used:
        base = name.rpartition("/")[2]
        if first.setdefault(base, name) != name:
            lost.append(f"{name} (beside {first[base]})")
    if not lost:
        return ()
    return (
        "Files in different folders share a name. All are used here; fal's trainer flattens folders and would lose "
        f"{name_some(lost)}.",
    )
