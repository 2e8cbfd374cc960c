"""Losses of steps that the device may still be computing.

Reading a number from a GPU waits for it. So the loss of a step is read when the next one has been handed over: the GPU
always has work, and the CPU is never more than one step ahead.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from ..model import copies


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came out of a step."""

    step: int
    """From 0."""
    rate: float
    """Learning rate."""
    loss: float
    grad_norm: float

    @property
    def finite(self) -> bool:
        """Whether the update was applied; the optimiser decides by the same two numbers, on the device."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def not_finite(loss: Tensor, grad_norm: Tensor) -> Tensor:
    """1.0 where the update must be skipped, else 0.0: a scalar on the device, as a fused optimiser takes it."""
    return (~(loss.isfinite() & grad_norm.isfinite())).float()


class Outcomes:
    """A queue of steps whose numbers are on their way."""

    def __init__(self, device: torch.device) -> None:
        self.lag = 1 if device.type == "cuda" else 0
        """Steps that may be waiting while the next is handed over."""
        self._waiting: deque[tuple[int, float, copies.Reading]] = deque()

    def add(self, step: int, rate: float, loss: Tensor, grad_norm: Tensor) -> None:
        """Take the two scalars of a step whose update has been handed over."""
        self._waiting.append((step, rate, copies.begin_to_read(torch.stack([loss, grad_norm.double()]))))

    def take(self, *, wait: bool) -> Iterator[Outcome]:
        """The steps that are done, oldest first; with `wait`, all."""
        while len(self._waiting) > (0 if wait else self.lag):
            step, rate, reading = self._waiting.popleft()
            loss, grad_norm = reading.numbers()
            yield Outcome(step, rate, loss, grad_norm)
