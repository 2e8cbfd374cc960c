"""One process at a time on a run: a lock that the system releases when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import BinaryIO

from ..errors import RunInUse
from ..storage import open_regular

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = "run.lock"
_TRIES, _PAUSE_S = 40, 0.05
"""`is_locked` holds the lock for a moment while it looks; a run that starts in that moment tries again."""


class RunLock:
    """Held until `close`. Where a disk knows no locks, as some network disks, there is none."""

    def __init__(self, run_folder: Path) -> None:
        """Raises `RunInUse` when another process, or another run in this one, holds it."""
        self._file: BinaryIO | None = None
        with contextlib.suppress(OSError):
            self._file = open_regular(run_folder / LOCK, os.O_RDWR | os.O_CREAT)
        if self._file and not _locked_soon(self._file):
            self._file.close()
            raise RunInUse(
                f"{run_folder.name} is being trained already, by another ComfyUI or another tab's workflow. "
                "Wait for it or cancel it there, or start a new run."
            )

    @property
    def held(self) -> bool:
        """Whether there is a lock at all."""
        return self._file is not None

    def close(self) -> None:
        """Let go of it, also for child processes that another pack may have forked meanwhile."""
        if self._file:
            with contextlib.suppress(OSError):
                _unlock(self._file)
            self._file.close()
            self._file = None


def is_locked(run_folder: Path) -> bool:
    """Whether somebody is training this run. Where a disk knows no locks nobody can tell, and the answer is no.

    Any number may look at the same time; a run that is about to be trained is held up for a moment at most.
    """
    try:
        file = open_regular(run_folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    with file:
        if not _locked(file, shared=True):
            return True
        with contextlib.suppress(OSError):
            _unlock(file)
    return False


def _locked_soon(file: BinaryIO) -> bool:
    """As `_locked`, for whoever must not be kept out by somebody who only looks."""
    for _ in range(_TRIES - 1):
        if _locked(file):
            return True
        time.sleep(_PAUSE_S)
    return _locked(file)


def _locked(file: BinaryIO, *, shared: bool = False) -> bool:
    """Take the lock, or find it taken: False. A disk that cannot lock does not keep anybody from training.

    shared: together with others who look, where the system knows the difference.
    """
    try:
        if fcntl:
            fcntl.flock(file.fileno(), (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


def _unlock(file: BinaryIO) -> None:
    if fcntl:
        fcntl.flock(file.fileno(), fcntl.LOCK_UN)
    else:
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined, unused-ignore]
