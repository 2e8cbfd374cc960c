"""Put a new file in place: whole or not at all, and never over another.

Written and synced in a hidden folder of its own inside the target folder (so on the same disk, and never outside of
what the user chose), then given the first free name in one step that fails when the name is taken. So two savers at
the same moment get two files, and a crash leaves at most a hidden folder, which a later save removes. Not covered: a
file system that breaks its promises about rename or sync.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import SaveFailed

_ASIDE_PREFIX = ".ideogram4-lora-partial-"
_LEFTOVER_AGE_S = 24 * 3600
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def place_new_file(folder: Path, stem: str, suffix: str, pieces: Sequence[bytes | memoryview]) -> Path:
    """Create `stem + suffix` in `folder`, or `stem_2`, `stem_3` ... where names are taken, holding `pieces` in a row.

    `folder` is created if needed. Returns the path of the new file. Raises `SaveFailed`; then no new file is there.
    """
    if _NOT_IN_NAMES.search(stem) or not stem.strip(" ."):
        raise SaveFailed(f"{stem!r} cannot be a file name. Use letters, digits, spaces, hyphens and underscores.")
    size_bytes = sum(len(piece) for piece in pieces)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        if shutil.disk_usage(folder).free < size_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with _folder_aside(folder) as aside:
            temporary = aside / "file.partial"
            _write(temporary, pieces)
            path = _claim_free_name(temporary, folder, stem, suffix)
    except OSError as error:
        raise SaveFailed(_explain(error, folder, stem + suffix, size_bytes)) from error
    _sync_folder(folder)
    return path


@contextlib.contextmanager
def _folder_aside(folder: Path) -> Iterator[Path]:
    aside = tempfile.mkdtemp(prefix=_ASIDE_PREFIX, dir=folder)
    try:
        yield Path(aside)
    finally:
        # What stays is swept later; a failure here must not hide that the file is in place, or why it is not.
        shutil.rmtree(aside, ignore_errors=True)


def _write(path: Path, pieces: Sequence[bytes | memoryview]) -> None:
    with open(path, "xb") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())


def _claim_free_name(temporary: Path, folder: Path, stem: str, suffix: str) -> Path:
    for number in itertools.count(1):
        target = folder / (f"{stem}{suffix}" if number == 1 else f"{stem}_{number}{suffix}")
        try:
            _claim(temporary, target)
        except FileExistsError:
            continue
        return target
    raise AssertionError("unreachable: the numbers do not end")


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


def _remove_leftovers(folder: Path) -> None:
    """Delete what a crashed save left here, once it is surely not being written any more."""
    for leftover in folder.glob(f"{_ASIDE_PREFIX}*"):
        with contextlib.suppress(OSError):  # another saver was faster
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_AGE_S:
                shutil.rmtree(leftover, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where the system can: Windows and some network disks cannot."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _explain(error: OSError, folder: Path, file_name: str, size_bytes: int) -> str:
    if error.errno in _NO_SPACE:
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(folder).free
            return (
                f"{file_name} was not saved: the disk of {folder} is full. {size_bytes:,} bytes are needed, "
                f"{free:,} are free. Make room and save again."
            )
    return (
        f"{file_name} was not saved in {folder}: {error.strerror or error}. "
        "Check that the folder exists and can be written to, then save again."
    )
