"""Uploads on disk: a hidden folder inside the input folder while they arrive, then a dataset under its name.

Everything here may take long and is called on threads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..trainer_core.dataset import open_dataset
from ..trainer_core.dataset.arrivals import Arrival
from ..trainer_core.errors import SaveFailed
from ..trainer_core.storage import claim_name, open_regular, require_room
from .guard import Refusal

IDLE_S = 3600.0
"""After which an upload is given up."""
ASIDE_PREFIX = ".ideogram4-lora-upload-"
_COMPARE_BYTES = 2**20


def remove_abandoned(root: Path) -> None:
    """Delete what uploads of a server that is gone have left in `root`."""
    for aside in root.glob(f"{ASIDE_PREFIX}*"):
        with contextlib.suppress(OSError):  # another server was faster
            newest = max(path.lstat().st_mtime for path in (aside, *aside.rglob("*")))
            if time.time() - newest > IDLE_S:
                shutil.rmtree(aside, ignore_errors=True)


@dataclasses.dataclass(eq=False)
class File:
    """One file that arrives."""

    path: Path
    size: int
    """Bytes, as declared."""
    received: int = 0
    busy: bool = False
    """A part is being written."""


@dataclasses.dataclass(eq=False)
class Upload:
    """A dataset that arrives."""

    arrival: Arrival
    aside: Path
    """The hidden folder, in the input folder."""
    files: list[File]
    touched_s: float = dataclasses.field(default_factory=time.monotonic)
    finishing: bool = False
    ended: bool = False
    """It is over, well or not: what still writes must stop."""

    @property
    def content(self) -> Path:
        return self.aside / "content"

    @property
    def missing_bytes(self) -> int:
        return sum(file.size - file.received for file in self.files)

    @property
    def busy(self) -> bool:
        return self.finishing or any(file.busy for file in self.files)


def prepare(upload: Upload, needed_bytes: int) -> None:
    """Make the hidden folder, where there is room. Raises `Refusal`, without the server's paths."""
    try:
        require_room(upload.aside.parent, needed_bytes, "The upload")
        for folder in {file.path.parent for file in upload.files}:
            folder.mkdir(parents=True, exist_ok=True)
    except SaveFailed as error:
        if isinstance(error.__cause__, OSError):
            raise not_written(error.__cause__) from error
        gigabytes = f"{needed_bytes / 2**30:,.2f} GiB"
        raise Refusal(507, "no_room", f"Not enough room on ComfyUI's disk: {gigabytes} are needed.") from error
    except OSError as error:
        raise not_written(error) from error


def open_at(path: Path, offset: int) -> BinaryIO:
    """A file of an upload to be written from `offset` on; it is made where it is not there yet. Raises OSError."""
    handle = open_regular(path, os.O_RDWR | os.O_CREAT)
    handle.seek(offset)
    return handle


def place(upload: Upload) -> str:
    """Judge what has arrived and give it its name, which is returned. Raises as `open_dataset`, and `Refusal`."""
    arrival, root = upload.arrival, upload.aside.parent
    try:
        for file in upload.files:
            with open_at(file.path, 0) as handle:  # made here where it is an empty caption
                handle.truncate(file.size)
                os.fsync(handle.fileno())
        finished = upload.content / arrival.name if arrival.is_zip else upload.content
        open_dataset(finished, name=arrival.name, require_captions=False)
        for name in _names(arrival):
            target = root / name
            if _same(finished, target):
                return name
            with contextlib.suppress(FileExistsError):  # taken
                claim_name(finished, target)
                return name
    except OSError as error:
        raise not_written(error) from error
    raise AssertionError("unreachable: the numbers do not end")


def _names(arrival: Arrival) -> Iterator[str]:
    """The name, and those with a number that come next where it is taken."""
    stem, suffix = os.path.splitext(arrival.name) if arrival.is_zip else (arrival.name, "")
    yield arrival.name
    for number in itertools.count(2):
        yield f"{stem}_{number}{suffix}"


def _same(new: Path, old: Path) -> bool:
    """Whether two files, or two folders with all files below them, hold the same bytes."""
    try:
        if not new.is_dir():
            return old.is_file() and _same_bytes(new, old)
        names = _files_below(new)
        return old.is_dir() and names == _files_below(old) and all(_same_bytes(new / n, old / n) for n in names)
    except OSError:
        return False  # what cannot be read is another dataset


def _files_below(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())


def _same_bytes(new: Path, old: Path) -> bool:
    if new.stat().st_size != old.stat().st_size:
        return False
    with new.open("rb") as one, old.open("rb") as other:
        pieces = iter(functools.partial(one.read, _COMPARE_BYTES), b"")
        return all(piece == other.read(_COMPARE_BYTES) for piece in pieces)


def remove(upload: Upload) -> None:
    """Delete what has arrived and was not given a name."""
    shutil.rmtree(upload.aside, ignore_errors=True)


def not_written(error: OSError) -> Refusal:
    """The answer where the system refuses to write; without paths."""
    return Refusal(507, "not_written", f"ComfyUI cannot write into its input folder: {error.strerror or error}.")
