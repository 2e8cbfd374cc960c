"""Times of steps, and how much memory they take."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import itertools
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
GIB = 2**30


@dataclasses.dataclass
class Meter:
    """Started when everything is loaded; told of the end of each step.

    On a GPU it never waits for the device: every contender waits for a loss now and then, and that keeps the clock of
    the steps true. Peaks are those of torch's allocator on a GPU; in main memory those of the process, where Linux
    can say it: `peak` since the end of the first step, so that what setting up took for a moment does not count, and
    `whole_peak` since the start.
    """

    device: str
    warmup: int
    ends: list[float] = dataclasses.field(default_factory=list)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)

    def start(self) -> None:
        """Call it when the model is loaded, before training is set up."""
        gc.collect()
        _give_back_freed_memory()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self.figures["host_before_gib"] = _host_memory("VmRSS")
        _forget_host_peak()

    def step_done(self) -> None:
        """Call it when a step has ended."""
        self.ends.append(time.perf_counter())
        if len(self.ends) == 1:
            self.figures["host_setup_gib"] = _host_memory("VmHWM")
            _forget_host_peak()

    def stop(self) -> dict[str, Any]:
        """Call it after the last step; the figures, in seconds and GiB."""
        peak, setup = _host_memory("VmHWM"), self.figures.pop("host_setup_gib", None)
        self.figures.update(host_peak_gib=peak, host_whole_peak_gib=max(filter(None, (peak, setup)), default=None))
        if self.device == "cuda":
            self.figures["allocated_gib"] = torch.cuda.max_memory_allocated() / GIB
            self.figures["reserved_gib"] = torch.cuda.max_memory_reserved() / GIB
        steps = [after - before for before, after in itertools.pairwise(self.ends)][self.warmup :]
        self.figures["steps"] = steps
        self.figures["seconds"] = statistics.median(steps)
        return self.figures


def _host_memory(name: str) -> float | None:
    """A line of the process's status in GiB, or None where the system has no such thing."""
    with contextlib.suppress(OSError):
        found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(encoding="utf-8"), re.MULTILINE)
        return int(found[1]) / 2**20 if found else None
    return None


def _give_back_freed_memory() -> None:
    """What the C library keeps for later would count as in use."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _forget_host_peak() -> None:
    """Let the peak begin anew from what is in use now; see proc(5)."""
    with contextlib.suppress(OSError):
        CLEAR_REFS.write_text("5", encoding="ascii")
