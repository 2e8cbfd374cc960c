"""What a training run tells, as lines of a log that only grows.

The lines are a pure function of the run's journal, so that a client who has read n of them goes on at number n, also
after a restart of ComfyUI. Of the steps about `STEP_LINES` are told, and of a long run every `MAX_UNTOLD_STEPS`th.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...trainer_core.storage import open_regular
from ...trainer_core.training.checkpoints import subfolders
from ...trainer_core.training.journal import JOURNAL, MAX_BYTES
from .words import without_paths

STEP_LINES = 100
MAX_UNTOLD_STEPS = 100
MAX_LINES = 5000


def line(message: str, time: float, level: str = "INFO") -> dict[str, str]:
    """One line of a log, in fal's form. `time` is in seconds since 1970."""
    moment = datetime.fromtimestamp(time, timezone.utc).isoformat(timespec="milliseconds")
    return {"message": message, "level": level, "source": "comfyui", "timestamp": moment}


class RunLog:
    """The log of one run, read as its journal grows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.step = 0
        self.steps = 0
        self.lines: list[dict[str, str]] = []
        self._file, self._offset = 0, 0
        self._reading = threading.Lock()

    def read(self) -> None:
        """Add what was written since the last call. A journal that cannot be read adds nothing."""
        with (
            self._reading,  # two clients ask at once, and a line must not be there twice
            contextlib.suppress(OSError),
            open_regular(self.folder / JOURNAL, os.O_RDONLY) as file,
        ):
            status = os.fstat(file.fileno())
            if status.st_ino != self._file or status.st_size < self._offset:
                self._file, self._offset = status.st_ino, 0  # begun anew, in the place of a run that was deleted
            file.seek(self._offset)
            part = file.read(MAX_BYTES)
            whole = part[: part.rfind(b"\n") + 1]
            self._offset += len(whole)
            for text in whole.split(b"\n"):
                self._add(text)

    def _add(self, text: bytes) -> None:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError, OverflowError, OSError):
            event = json.loads(text)
            self.step, self.steps = int(event["step"]), int(event.get("steps", self.steps))
            for message, level in self._told(event):
                if len(self.lines) < MAX_LINES:
                    self.lines.append(line(without_paths(message), float(event["time"]), level))

    @property
    def _spacing(self) -> int:
        return max(1, min(MAX_UNTOLD_STEPS, self.steps // STEP_LINES))

    def _told(self, event: dict[str, Any]) -> Iterator[tuple[str, str]]:
        match event["event"]:
            case "started":
                yield f"Training for {self.steps} steps.", "INFO"
            case "resumed":
                yield f"Going on at step {self.step} of {self.steps}.", "INFO"
            case "step" if self.step % self._spacing == 0 or self.step in (1, self.steps):
                loss = event.get("smoothed_loss") or event.get("loss")
                told = f"Step {self.step} of {self.steps}" + (f", loss {loss:.4f}" if loss is not None else "")
                left = event.get("seconds_left")
                yield told + (f", about {_duration(left)} left." if left else "."), "INFO"
            case "checkpoint" if self.step:
                yield f"Saved at step {self.step}.", "INFO"
            case "note" if not str(event["text"]).startswith("Stopped at step"):
                yield str(event["text"]), "WARN"
            case "stopped":  # in words of our own: those of the journal are for the page
                saved = f"at step {self.step}. What was learnt is saved; /resume goes on from there."
                yield f"Stopped {saved if self.step else 'before anything was saved. /resume begins again.'}", "WARN"
            case "finished":
                yield f"Trained {self.step} steps.", "INFO"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def find_run_folder(runs_folder: Path, run_name: str) -> Path | None:
    """The folder of the newest run of that name, without the number that it was given; None before there is one."""
    found = [path for path in subfolders(runs_folder) if path.name.rpartition("_")[0] == run_name]
    return max(found, key=lambda path: path.name, default=None)
