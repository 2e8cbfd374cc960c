"""How long steps take, and the rest of the run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Runs from `start` on. What is done beside the steps is time of the run, but not of a step."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin to count, again if need be."""
        self._started_s, self._beside_s = time.monotonic(), 0.0

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Measuring and making pictures, say."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._beside_s += time.monotonic() - began

    def seconds(self) -> float:
        """In all."""
        return time.monotonic() - self._started_s

    def per_step(self, done: int) -> float:
        """Seconds that each of `done` steps took by itself."""
        return max(0.0, self.seconds() - self._beside_s) / done

    def left(self, done: int, steps: int) -> float:
        """Seconds that `steps` more take, with as much beside them as so far."""
        return self.seconds() / done * steps
