"""The datasets in one folder, for a list to choose from: zips, and folders with images.

Covered: names that would leave the folder, links that lead out of it, folders that cannot be read. The folder is given
by the caller, who knows where ComfyUI keeps its inputs.
Not covered: whether what is listed can be opened; that is judged when it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import DatasetUnreadable
from ..paths import PathOutsideRoot, resolve_inside, shown
from .corrections import corrections_path
from .names import IMAGE_SUFFIXES

LISTING_DEPTH = 3
"""Folders inside folders that are looked through."""


def list_datasets(root: Path) -> list[str]:
    """Zips and folders with images below `root`, as relative paths with forward slashes, in order of their names."""
    root = Path(os.path.realpath(root))
    return sorted(_datasets_below(root, root, 0), key=str.casefold)


def dataset_path(root: Path, name: str) -> Path:
    """The real path of the zip or folder `name` below `root`. Raises `DatasetUnreadable` and `PathOutsideRoot`."""
    root = Path(os.path.realpath(root))
    path = resolve_inside(root, name)
    if path == root:
        raise DatasetUnreadable(
            "No dataset is chosen. Put a zip of images and captions into ComfyUI's input folder, press R to refresh, "
            "and pick it."
        )
    if not path.exists():
        raise DatasetUnreadable(
            f"There is no dataset {shown(name)} in ComfyUI's input folder. Upload the zip again, or pick another."
        )
    return path


def data_stamp(path: Path) -> list[tuple[str, int, int]]:
    """Changes whenever a zip or folder may have changed: names, bytes and times (ns), of a folder's files too."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [_stamp_of(file) for file in files]


def corrections_stamp(path: Path) -> list[tuple[str, int, int]]:
    """Changes whenever the corrected captions of the zip or folder `path` may have changed."""
    beside = corrections_path(path)
    return [_stamp_of(beside)] if beside.is_file() else []


def _stamp_of(file: Path) -> tuple[str, int, int]:
    status = file.stat()
    return file.as_posix(), status.st_size, status.st_mtime_ns


def _datasets_below(root: Path, folder: Path, depth: int) -> Iterator[str]:
    has_images = False
    for entry in _entries(folder):
        name = Path(entry.path).relative_to(root).as_posix()
        is_folder = _is_folder(entry)
        if is_folder is None or (entry.is_symlink() and not _is_inside(root, name)):
            continue
        if is_folder:
            if depth < LISTING_DEPTH:
                yield from _datasets_below(root, Path(entry.path), depth + 1)
        elif entry.name.lower().endswith(".zip"):
            yield name
        elif entry.name.lower().endswith(IMAGE_SUFFIXES):
            has_images = True
    if has_images and folder != root:
        yield folder.relative_to(root).as_posix()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
    except OSError:
        # A folder that may not be read, or went away meanwhile, has nothing to offer.
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool | None:
    """None for what cannot be looked at, as a link to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return None


def _is_inside(root: Path, name: str) -> bool:
    try:
        resolve_inside(root, name)
    except PathOutsideRoot:
        return False
    return True
