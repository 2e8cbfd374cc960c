"""Put new files and folders in place: whole or not at all, and never over others.

Written and synced in a hidden folder of its own inside the target folder (so on the same disk, and never outside of
what the user chose), then given the first free name in one step that fails when the name is taken. So two savers at
the same moment get two names, and a crash leaves at most a hidden folder, which a later save removes. Not covered: a
file system that breaks its promises about rename or sync.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

from .errors import SaveFailed

Pieces: TypeAlias = Sequence[bytes | memoryview]
"""The contents of a file, in a row."""

_ASIDE_PREFIX = ".ideogram4-lora-partial-"
_LEFTOVER_AGE_S = 3600
"""No save takes an hour; what is older belongs to a process that is gone."""
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def place_new_file(folder: Path, stem: str, suffix: str, pieces: Pieces) -> Path:
    """Create `stem + suffix` in `folder`, or `stem_2`, `stem_3` ... where names are taken, holding `pieces` in a row.

    `folder` is created if needed. Returns the path of the new file. Raises `SaveFailed`; then no new file is there.
    """
    with _new_in(folder, stem, suffix, _size_bytes(pieces)) as aside:
        temporary = aside / "file.partial"
        _write(temporary, pieces)
        path = _claim_free_name(temporary, folder, stem, suffix)
    _sync_folder(folder)
    return path


def place_new_folder(parent: Path, stem: str, files: Mapping[str, Pieces]) -> Path:
    """Create the folder `stem` in `parent`, or `stem_2`, `stem_3` ... where names are taken, holding `files`.

    files: path inside the folder, with forward slashes, to contents. `parent` is created if needed. Returns the path
    of the new folder. Raises `SaveFailed`; then no new folder is there.
    """
    with _new_in(parent, stem, "", sum(_size_bytes(pieces) for pieces in files.values())) as aside:
        content = aside / "folder.partial"
        content.mkdir()
        for name, pieces in files.items():
            path = content / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, pieces)
        for folder in (*(path for path in content.rglob("*") if path.is_dir()), content):
            _sync_folder(folder)
        path = _rename_to_free_name(content, parent, stem)
    _sync_folder(parent)
    return path


def claim_name(finished: Path, target: Path) -> None:
    """Give a finished file or folder its name, on the same disk.

    Raises FileExistsError, and changes nothing, if the name is taken; OSError.
    """
    if not finished.is_dir():
        _claim(finished, target)
    elif os.path.lexists(target):  # POSIX would replace an empty folder
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    else:
        try:
            finished.rename(target)
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
            raise
    _sync_folder(target.parent)


def replace_file(path: Path, pieces: Pieces) -> None:
    """Put `pieces` in a row in the place of a file, whole or not at all, whether it is there or not.

    Raises `SaveFailed`; then `path` is as it was.
    """
    with _new_in(path.parent, path.name, "", _size_bytes(pieces)) as aside:
        temporary = aside / "file.partial"
        _write(temporary, pieces)
        os.replace(temporary, path)
    _sync_folder(path.parent)


def open_regular(path: Path, flags: int) -> BinaryIO:
    """Open a file that is one: not a link, which may lead anywhere, nor a pipe, on which opening would wait.

    flags: of `os.open`. Raises OSError.
    """
    if path.is_symlink():  # said again by O_NOFOLLOW, which Windows does not have
        raise OSError(errno.ELOOP, "it is a link", str(path))
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    mode = "r+b" if flags & os.O_RDWR else "ab" if flags & os.O_APPEND else "rb"
    return cast(BinaryIO, open(descriptor, mode, buffering=0 if flags & os.O_APPEND else -1))


def is_disk_full(error: SaveFailed) -> bool:
    """Whether room is what was missing."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_SPACE


def require_room(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise `SaveFailed` when nothing can be created in `folder`, or fewer bytes are free than `what` needs."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / (_ASIDE_PREFIX + uuid.uuid4().hex)
        probe.mkdir()
        probe.rmdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise SaveFailed(
            f"{what} cannot be written to {folder}: {error.strerror or error}.",
            "Make the folder writable and run again.",
        ) from error
    if free < needed_bytes:
        raise SaveFailed(
            f"Not enough room for {what.lower()} in {folder}: need {needed_bytes:,} bytes, {free:,} are free.",
            "Make room and run again.",
        )


def remove_folder(folder: Path) -> None:
    """Delete a folder so that a crash in between leaves it whole or out of sight. Failure leaves it, silently."""
    aside = folder.with_name(_ASIDE_PREFIX + uuid.uuid4().hex)
    with contextlib.suppress(OSError):
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(folder: Path, *, min_age_s: float = _LEFTOVER_AGE_S) -> None:
    """Delete what a crashed save left in `folder`, once it is surely not being written any more."""
    for leftover in folder.glob(f"{_ASIDE_PREFIX}*"):
        with contextlib.suppress(OSError):  # another saver was faster
            if time.time() - leftover.stat().st_mtime >= min_age_s:
                shutil.rmtree(leftover, ignore_errors=True)


def _size_bytes(pieces: Pieces) -> int:
    return sum(len(piece) for piece in pieces)


@contextlib.contextmanager
def _new_in(folder: Path, stem: str, suffix: str, size_bytes: int) -> Iterator[Path]:
    """A hidden folder in `folder` to prepare something in. What the system refuses becomes a `SaveFailed`."""
    if _NOT_IN_NAMES.search(stem) or not stem.strip(" ."):
        raise SaveFailed(f"{stem!r} cannot be a file name. Use letters, digits, spaces, hyphens and underscores.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        if shutil.disk_usage(folder).free < size_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        aside = folder / (_ASIDE_PREFIX + uuid.uuid4().hex)
        aside.mkdir()
        try:
            yield aside
        finally:
            # What stays is swept later; a failure here must not hide that the file is in place, or why it is not.
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise SaveFailed(*_explain(error, folder, stem + suffix, size_bytes)) from error


def _write(path: Path, pieces: Pieces) -> None:
    with open(path, "xb") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())


def _claim_free_name(temporary: Path, folder: Path, stem: str, suffix: str) -> Path:
    for target in _candidates(folder, stem, suffix):
        try:
            _claim(temporary, target)
        except FileExistsError:
            continue
        return target
    raise AssertionError("unreachable: the numbers do not end")


def _rename_to_free_name(content: Path, parent: Path, stem: str) -> Path:
    for target in _candidates(parent, stem, ""):
        if not os.path.lexists(target):
            try:
                content.rename(target)
            except OSError as error:
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                    continue  # somebody was faster
                raise
            return target
    raise AssertionError("unreachable: the numbers do not end")


def _candidates(folder: Path, stem: str, suffix: str) -> Iterator[Path]:
    for number in itertools.count(1):
        yield folder / (f"{stem}{suffix}" if number == 1 else f"{stem}_{number}{suffix}")


def _claim(temporary: Path, target: Path) -> None:
    """Give the finished file its name. Raises FileExistsError, and changes nothing, if the name is taken."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # no hard links here (exFAT, some network disks)
        _claim_without_links(temporary, target)


def _claim_without_links(temporary: Path, target: Path) -> None:
    if os.name == "nt":
        os.rename(temporary, target)  # refuses to replace, on Windows only
        return
    with open(target, "xb"):  # reserves the name: whoever comes second fails here
        pass
    with contextlib.ExitStack() as undo:
        undo.callback(target.unlink, missing_ok=True)
        os.replace(temporary, target)
        undo.pop_all()


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where the system can: Windows and some network disks cannot."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _explain(error: OSError, folder: Path, file_name: str, size_bytes: int) -> tuple[str, str]:
    """Reason and advice."""
    if error.errno in _NO_SPACE:
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(folder).free
            return (
                f"{file_name} was not saved: the disk of {folder} is full. {size_bytes:,} bytes are needed, "
                f"{free:,} are free.",
                "Make room and run again.",
            )
    return (
        f"{file_name} was not saved in {folder}: {error.strerror or error}.",
        "Check that the folder exists and can be written to, then run again.",
    )
