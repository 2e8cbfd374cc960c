"""What a step tells whoever shows it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class StepReport:
    """What a step did, for whoever shows it."""

    step: int
    """Steps done, from 1."""
    steps: int
    loss: float
    smoothed_loss: float
    learning_rate: float
    grad_norm: float
    skipped: bool
    """The update was not applied because the loss or gradient was not finite."""
    seconds_per_step: float
    seconds_left: float
