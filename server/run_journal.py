"""A run's journal for the browser: its lines from a place on, and a summary of where the run is.

Covered: a journal that is missing, a link or a pipe; lines that are no JSON object, or hold numbers that JSON does not
know; a line without end; a journal that was begun anew since the client last looked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..trainer_core.storage import open_regular
from ..trainer_core.training.journal import JOURNAL, MAX_BYTES

PART_BYTES = 2**20
"""Of the journal, in one answer."""
_BEGINNING_BYTES = 64
"""Of a journal, which hold the time of its first line and so tell it from another of the same name."""


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """Where a run is, by its journal."""

    stamp: tuple[int, int] = (-1, -1)
    """Size and time of the journal that this was read from."""
    step: int = 0
    steps: int = 0
    finished: bool = False
    node: str = ""
    workflow: str = ""
    time: float = 0.0
    """Of the newest line, in seconds since 1970."""

    def to_json(self, *, active: bool) -> dict[str, object]:
        """As GET /runs tells it."""
        state = "finished" if self.finished else "running" if active else "stopped"
        origin = {"node": self.node, "workflow": self.workflow}
        about = {"step": self.step, "steps": self.steps, "active": active, "state": state}
        return {**about, "origin": origin, "time": self.time}


def read_part(run_folder: Path, offset: int, *, active: bool, files: list[str]) -> bytes:
    """JSON: the whole lines of the journal from byte `offset` on, at most `PART_BYTES` of them.

    `offset` in the answer is where the next part begins. It is 0, with no lines, when the journal is shorter than what
    the client has read: it was begun anew. `began` differs between two journals of the same name.
    """
    part, more, began = b"", False, 0
    with contextlib.suppress(OSError), open_regular(run_folder / JOURNAL, os.O_RDONLY) as file:
        size = os.fstat(file.fileno()).st_size
        began = zlib.crc32(file.read(_BEGINNING_BYTES))
        if offset > size:
            return _answer([], 0, size > 0, active, began, files)
        file.seek(offset)
        part = file.read(PART_BYTES)
        more = offset + len(part) < size
    end = part.rfind(b"\n") + 1
    if not end and len(part) == PART_BYTES:
        end = len(part)  # no line of ours is as long: pass over it
    lines = [line for line in part[:end].split(b"\n") if _event(line) is not None]
    return _answer(lines, offset + end, more and end > 0, active, began, files)


def _answer(lines: list[bytes], offset: int, more: bool, active: bool, began: int, files: list[str]) -> bytes:
    # Lines are passed on as they are: each was found to be JSON, and writing it anew could only change it.
    rest = json.dumps({"offset": offset, "more": more, "active": active, "began": began, "files": files})
    return b'{"lines": [' + b",".join(lines) + b"], " + rest[1:].encode()


def _event(line: bytes) -> dict[str, Any] | None:
    """The event in a line, None if there is none."""
    with contextlib.suppress(ValueError, RecursionError):
        event = json.loads(line.decode(), parse_constant=_refuse)
        if isinstance(event, dict) and isinstance(event.get("event"), str) and type(event.get("step")) is int:
            return event
    return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def summarise(run_folder: Path, before: RunSummary | None) -> RunSummary:
    """The summary of a run; `before`, if the journal has not changed since that was made."""
    try:
        with open_regular(run_folder / JOURNAL, os.O_RDONLY) as file:
            status = os.fstat(file.fileno())
            stamp = (status.st_size, status.st_mtime_ns)
            if before and before.stamp == stamp:
                return before
            return _summary(file, stamp)
    except OSError:
        return RunSummary()


def _summary(file: BinaryIO, stamp: tuple[int, int]) -> RunSummary:
    """By the lines since the run was last started or resumed: what was before is done again or known already."""
    newest: dict[str, Any] = {}
    end = ""
    step = 0
    for line in _backwards(file, stamp[0]):
        event = _event(line)
        if event is None:
            continue
        newest = newest or event
        if event["event"] in ("finished", "stopped"):
            end = end or event["event"]
        if event["event"] in ("step", "started", "resumed"):
            step = max(step, event["step"])
        if event["event"] in ("started", "resumed"):
            origin = event.get("origin")
            origin = origin if isinstance(origin, dict) else {}
            return RunSummary(
                stamp=stamp,
                step=step,
                steps=event["steps"] if type(event.get("steps")) is int else 0,
                finished=end == "finished",
                node=_text(origin.get("node")),
                workflow=_text(origin.get("workflow")),
                time=_time(newest),
            )
    return RunSummary(stamp=stamp, step=step, time=_time(newest))


def _backwards(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The lines of a file, the last one first; at most `MAX_BYTES` of them. A line of many parts is left out."""
    rest, end = b"", size
    while end > max(0, size - MAX_BYTES):
        begin = max(0, end - PART_BYTES)
        file.seek(begin)
        part = file.read(end - begin) + rest
        first, *lines = part.split(b"\n")
        yield from reversed(lines)
        rest = first if len(first) < PART_BYTES else b""
        end = begin
    yield rest


def _text(value: object) -> str:
    return value if isinstance(value, str) and len(value) < 1000 else ""


def _time(event: dict[str, Any]) -> float:
    time = event.get("time")
    return float(time) if isinstance(time, (int, float)) and 0 <= time < 1e12 else 0.0
