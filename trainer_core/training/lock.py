"""One process at a time on a run: a lock that the system releases when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

from ..errors import RunInUse
from ..storage import open_regular

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = "run.lock"


class RunLock:
    """Held until `close`. Where a disk knows no locks, as some network disks, there is none."""

    def __init__(self, run_folder: Path) -> None:
        """Raises `RunInUse` when another process, or another run in this one, holds it."""
        self._file: BinaryIO | None = None
        with contextlib.suppress(OSError):
            self._file = open_regular(run_folder / LOCK, os.O_RDWR | os.O_CREAT)
        if self._file and not _locked(self._file):
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


def _locked(file: BinaryIO) -> bool:
    """Take the lock, or find it taken: False. A disk that cannot lock does not keep anybody from training."""
    try:
        if fcntl:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
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
