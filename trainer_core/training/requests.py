"""What the user asks of a run while it is trained: save now, preview now, stop and keep.

A request is an empty file in the run's folder, `save.request`, so that it can be made by whoever can see the folder:
the buttons of the train node, `python trainer_core RUN --ask save`, another program. It is taken between two steps.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..errors import SaveFailed

REQUESTS = ("save", "preview", "stop")


def ask(run_folder: Path, what: str) -> None:
    """Ask for one of `REQUESTS`. Raises `SaveFailed` where the run's folder cannot be written to."""
    if what not in REQUESTS:
        raise ValueError(f"{what} is none of {', '.join(REQUESTS)}")
    try:
        _file(run_folder, what).touch()
    except OSError as error:
        reason = f"{run_folder.name} cannot be asked to {what}: {error.strerror or error}."
        raise SaveFailed(reason, "Make its folder writable.") from error


def take(run_folder: Path) -> set[str]:
    """What has been asked for since the last call; each request is taken once."""
    taken = set()
    for what in REQUESTS:
        with contextlib.suppress(OSError):  # not asked for, or asked of a folder that is gone or read-only
            _file(run_folder, what).unlink()
            taken.add(what)
    return taken


def _file(run_folder: Path, what: str) -> Path:
    return run_folder / f"{what}.request"
