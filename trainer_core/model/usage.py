"""What a run has allocated on a GPU beside the model, now and at its peak, as torch counts it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class DeviceUsage:
    """Counts from its making on, when the model is in place; 0 where torch does not count."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._most = 0
        self._others = self._begin()
        """What is there and not the run's: the model, mostly."""

    def now(self) -> int:
        """Bytes that the run holds."""
        return max(0, self._allocated() - self._others)

    def peak(self) -> int:
        """The most that it held since the beginning, but for what was `aside`."""
        self._most = max(self._most, self._highest() - self._others)
        return self._most

    @contextmanager
    def aside(self) -> Iterator[int]:
        """For work that is not the run's, and that may move the model. Yields what the run holds all the while."""
        own = self.now()
        self.peak()
        yield own
        self._others = self._begin() - own

    def _begin(self) -> int:
        """Forget the peak. Returns what is allocated now."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        return self._allocated()

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated(self._device) if self._device.type == "cuda" else 0

    def _highest(self) -> int:
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else 0
