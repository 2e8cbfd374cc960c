"""The journal of a run: one JSON object a line, from which everything that was shown can be rebuilt.

    {"event": "started",    "time": ..., "step": 0, "steps": 1000, "facts": {...}, "origin": {"node", "workflow"}}
    {"event": "resumed",    "time": ..., "step": 120, "steps": 1000, "facts": {...}, "origin": ..., "changes": [...],
                            "comparable": true}
    {"event": "previews",   "time": ..., "step": 0, "prompts": [...], "width": ..., "height": ..., "preset": ...,
                            "seed": ..., "guided": true, "every": 250}
    {"event": "step",       "time": ..., "step": 121, "loss": 0.43, "smoothed_loss": ..., "learning_rate": ...,
                            "grad_norm": ..., "skipped": false, "seconds_per_step": ..., "seconds_left": ...,
                            "peak_bytes": ...}
    {"event": "checkpoint", "time": ..., "step": 200, "name": "step_000200"}
    {"event": "validation", "time": ..., "step": 200, "loss": ..., "train_loss": ..., "sigmas": [...],
                            "losses": [...], "images": 4, "best": true}
    {"event": "preview",    "time": ..., "step": 200, "prompt": 0, "seconds": 14.2}
    {"event": "beside",     "time": ..., "step": 200, "what": "previews"}  or "validation": begun between two steps
    {"event": "answered",   "time": ..., "step": 200, "request": "save", "done": true}
    {"event": "note",       "time": ..., "step": 200, "text": ...}
    {"event": "stopped",    "time": ..., "step": 200, "reason": ..., "message": ..., "lora": ...}
    {"event": "finished",   "time": ..., "step": 1000}

`time` is in seconds since 1970; a number that was not finite is null. Steps count from 1: `step` is the number of
steps done. After `resumed`, steps, checkpoints, measurements and previews of later steps from before are void: those
steps were lost and are done again. A line of a step (and prompt) that is there already takes its place. The reason of
A validation is comparable with those before, unless a resume that says otherwise lies between. The reason of
`stopped` is `cancelled`, `kept` (the user asked to stop and keep), `failed` or the code of an error.
Covered: a last line torn by a crash, lines that are not JSON, a disk that is full or read-only (the run goes on
without its journal). Lines reach the system one by one, and the disk before the next checkpoint does.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..storage import open_regular

JOURNAL = "journal.jsonl"
_OF_STEPS = ("step", "checkpoint", "validation", "preview")
MAX_BYTES = 64 * 2**20
"""What is read of a journal. Forty thousand steps, the most there are, take about 10 MB."""


class Journal:
    """Appends lines to the journal of a run folder."""

    def __init__(self, run_folder: Path) -> None:
        self._file: BinaryIO | None = None
        self._torn = True  # an empty line does no harm
        with contextlib.suppress(OSError):
            # Unbuffered: a line that the disk refused must not come back later in the middle of another.
            self._file = open_regular(run_folder / JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            self._torn = _ends_without_newline(run_folder / JOURNAL)

    def write(self, event: str, **values: Any) -> bool:
        """Add a line; False when the disk refuses, which no run has to end for."""
        line = json.dumps({"event": event, "time": round(time.time(), 3), **_finite(values)}, allow_nan=False)
        if self._file is None:
            return False
        data = b"\n" * self._torn + line.encode() + b"\n"
        try:
            self._torn = self._file.write(data) != len(data)
        except OSError:
            self._torn = True
        return not self._torn

    def sync(self) -> None:
        """Make what is written survive a power cut."""
        if self._file:
            with contextlib.suppress(OSError):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """What is written after this is dropped."""
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


def read_journal(run_folder: Path) -> list[dict[str, Any]]:
    """The events of a run by step, without those that were lost and done again; [] if there is no journal."""
    of_steps: dict[tuple[str, int, str], dict[str, Any]] = {}
    others: list[dict[str, Any]] = []
    for event in _lines(run_folder / JOURNAL):
        kind, step = event["event"], event["step"]
        if kind in _OF_STEPS:
            of_steps[kind, step, str(event.get("prompt"))] = event
            continue
        if kind == "resumed":
            of_steps = {place: line for place, line in of_steps.items() if line["step"] <= step}
        others.append(event)
    return sorted([*of_steps.values(), *others], key=lambda event: event["step"])


def times_kept(run_folder: Path) -> int:
    """How often the run was stopped and kept."""
    return sum(event["event"] == "stopped" and event.get("reason") == "kept" for event in _lines(run_folder / JOURNAL))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with open_regular(path, os.O_RDONLY) as file:
            content = file.read(MAX_BYTES)
    except OSError:
        return
    for line in content.split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            event = json.loads(line)
            if isinstance(event, dict) and isinstance(event.get("event"), str) and type(event.get("step")) is int:
                yield event


def _ends_without_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _finite(value: Any) -> Any:
    """The same without numbers that are not finite, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
