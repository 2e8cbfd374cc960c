"""What a step tells whoever shows it."""

from __future__ import annotations

import dataclasses

from ..config import TrainSettings
from .clock import Clock
from .outcomes import Outcome


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
    peak_bytes: int
    """Most that the run had on the device so far, beside the weights; 0 where that is not counted."""


def step_report(
    outcome: Outcome, settings: TrainSettings, *, smoothed_loss: float, clock: Clock, first_step: int, peak_bytes: int
) -> StepReport:
    """The report of a step that is done, of a run that began, or went on, with `first_step`."""
    done = outcome.step + 1 - first_step
    return StepReport(
        step=outcome.step + 1,
        steps=settings.steps,
        loss=outcome.loss,
        smoothed_loss=smoothed_loss,
        learning_rate=outcome.rate,
        grad_norm=outcome.grad_norm,
        skipped=not outcome.finite,
        seconds_per_step=clock.per_step(done),
        seconds_left=clock.left(done, settings.steps - outcome.step - 1),
        peak_bytes=peak_bytes,
    )
