"""A folder as a dataset: the same view of it as of a zip.

Covered: links are followed only from file to file and only within the folder; pipes, sockets and devices are never
opened; the number of files and the depth are limited; a file that changed since the listing is refused.
Not covered: somebody who can write to the folder and swaps a file for a link between the check and the read.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import stat
from collections.abc import Generator, Iterator
from pathlib import Path

from ..errors import DatasetUnreadable
from .names import check_distinct, clean_name
from .refusal import Refused

MAX_FILES = 100_000
"""As in a zip."""
MAX_DEPTH = 32
"""Folders inside folders; deeper trees are accidents."""

_FIRST_READ_BYTES = 4 * 2**10
_MAX_READ_BYTES = 64 * 2**10


@dataclasses.dataclass(frozen=True, slots=True)
class FolderFile:
    """One file below the folder."""

    name: str
    path: Path
    size: int
    unusable: str
    """Why it is passed over ("" for an ordinary file)."""


@dataclasses.dataclass(frozen=True)
class FolderContainer:
    """A folder that has been listed. Plain data; holds no open file."""

    label: str
    root: Path = dataclasses.field(repr=False)
    entries: dict[str, FolderFile] = dataclasses.field(repr=False)

    @property
    def files(self) -> tuple[FolderFile, ...]:
        return tuple(self.entries.values())

    def chunks(self, name: str) -> Generator[bytes, None, None]:
        """The contents of one file, in pieces of at most 64 KiB. Raises `DatasetUnreadable`."""
        file = self.entries[name]
        try:
            if _judge(file.path, self.root):
                raise Refused("has changed since the folder was opened; run again")
            with file.path.open("rb", buffering=0) as handle:
                yield from _checked(handle, file.size)
        except Refused as refusal:
            raise DatasetUnreadable(f"{self.label}: the file {name} {refusal}.") from None
        except OSError as error:
            message = f"{self.label}: the file {name} cannot be read: {error.strerror or error}."
            raise DatasetUnreadable(message) from error


def open_folder(root: Path, label: str) -> FolderContainer:
    """List a folder and everything below it. Raises `DatasetUnreadable`."""
    root = _real(root)
    try:
        entries = list(itertools.islice(_walk(root, root, 0), MAX_FILES + 1))
        if len(entries) > MAX_FILES:
            raise Refused(f"it holds more than {MAX_FILES} files; split it")
        check_distinct(entry.name for entry in entries)
    except Refused as refusal:
        raise DatasetUnreadable(f"{label} cannot be used as a dataset: {refusal}.") from None
    except OSError as error:
        raise DatasetUnreadable(f"{label} cannot be read: {error.strerror or error}.") from error
    return FolderContainer(label, root, {entry.name: entry for entry in entries})


def _walk(folder: Path, root: Path, depth: int) -> Iterator[FolderFile]:
    if depth > MAX_DEPTH:
        raise Refused(f"its folders are nested more than {MAX_DEPTH} deep")
    with os.scandir(folder) as listing:
        children = sorted(listing, key=lambda child: child.name)
    for child in children:
        path = Path(child.path)
        if child.is_dir(follow_symlinks=False) and _real(path).is_relative_to(root):  # Windows junctions may leave
            yield from _walk(path, root, depth + 1)
        else:
            reason = _judge(path, root)
            size = 0 if reason else path.stat().st_size
            yield FolderFile(clean_name(path.relative_to(root).as_posix()), path, size, reason)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises on links that go in circles


def _judge(path: Path, root: Path) -> str:
    """Why the file must not be opened, or ""."""
    if path.is_symlink():
        target = _real(path)
        if not target.is_relative_to(root):
            return "symbolic link that leaves the folder: not followed"
        if not target.is_file():
            return "symbolic link that leads to no file: not followed"
        return ""
    return "" if stat.S_ISREG(path.lstat().st_mode) else "not a regular file"


def _checked(handle: io.FileIO, size: int) -> Iterator[bytes]:
    produced, step = 0, _FIRST_READ_BYTES
    while chunk := handle.read(step):
        produced += len(chunk)
        step = min(2 * step, _MAX_READ_BYTES)
        if produced > size:
            break
        yield chunk
    if produced != size:
        raise Refused("has changed since the folder was opened; run again")
