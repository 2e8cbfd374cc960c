"""What is told of a request: its log, how far its training is, and its answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .files import data_uri
from .run_log import RunLog, find_run_folder, line
from .store import Record

MAX_RUN_LOGS = 50
STAGES = {
    "Ideogram4LoadDataset": "Reading the dataset.",
    "UNETLoader": "Loading the model.",
    "Ideogram4EncodeDataset": "Encoding images and captions.",
    "Ideogram4ExpandPrompt": "Reading the prompt.",
    "SamplerCustomAdvanced": "Making an image.",
}
"""What a request is at while a node works, as far as it takes its time and nothing else tells of it."""


class Reports:
    """Reads the journals of runs as they grow."""

    def __init__(self, runs_folder: Callable[[], Path]) -> None:
        self._runs_folder = runs_folder
        self._logs: dict[str, RunLog] = {}

    def run_folder(self, record: Record) -> Path | None:
        """The folder of its training run, None before there is one."""
        return find_run_folder(self._runs_folder(), record.run_name) if record.run_name else None

    async def logs(self, record: Record) -> list[dict[str, str]]:
        """What is to be told of a request so far; the list only grows, as each line is of its own moment."""
        lines = [line("Queued in ComfyUI.", record.created)]
        lines += [line(note, record.created, "WARN") for note in record.notes]
        lines += [line(stage, time) for time, stage in record.stages]
        run = await self._run_log(record)
        if run is not None:
            lines += run.lines
        lines += [line(note, record.ended) for note in record.last_notes]
        return sorted(lines, key=lambda one: one["timestamp"])

    async def progress(self, record: Record) -> tuple[int, int]:
        """Steps that its training has done, and that there are; (0, 0) while there is none."""
        run = await self._run_log(record)
        return (run.step, run.steps) if run else (0, 0)

    async def _run_log(self, record: Record) -> RunLog | None:
        known = self._logs.get(record.id)
        if known is None:
            folder = await asyncio.to_thread(self.run_folder, record)
            if folder is None:
                return None
            while len(self._logs) >= MAX_RUN_LOGS:
                self._logs.pop(next(iter(self._logs)))
            known = self._logs.setdefault(record.id, RunLog(folder))
        await asyncio.to_thread(known.read)
        return known


def stage_of(node_id: str, record: Record) -> str:
    """What a request is to be told to be at, "" if it was told last or is not worth it."""
    stage = STAGES.get(record.graph.get(node_id, {}).get("class_type", ""), "")
    return "" if record.stages and record.stages[-1][1] == stage else stage


async def answer(record: Record, base: str = "") -> dict[str, Any]:
    """The payload with its files, as addresses or as data; `base` is the address of this server."""
    filled: dict[str, Any] = await asyncio.to_thread(_filled, record.payload, record, base or record.base)
    return filled


def _filled(value: Any, record: Record, base: str) -> Any:
    if isinstance(value, dict):
        kind = next((kind for kind in ("$file", "$data") if kind in value), None)
        if kind is None:
            return {key: _filled(part, record, base) for key, part in value.items()}
        rest = {key: part for key, part in value.items() if key != kind}
        file = file_object(record, value[kind], base)
        if kind == "$data":
            with contextlib.suppress(OSError):  # a file that was deleted since: its address says so
                file["url"] = data_uri(record.files[value[kind]])
        return {**file, **rest}
    return [_filled(part, record, base) for part in value] if isinstance(value, list) else value


def file_object(record: Record, index: int, base: str) -> dict[str, Any]:
    """fal's File: where it is, and what."""
    file = record.files[index]
    return {
        "url": f"{base}/fal/files/{record.id}/{index}/{quote(file['filename'])}",
        "content_type": file["content_type"],
        "file_name": file["filename"],
        "file_size": file["bytes"],
    }
