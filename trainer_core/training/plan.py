"""What a step does, before it is done: which images, which noise levels, which learning rate.

All of it is computed from the settings and the step number alone.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from ..config import TrainSettings
from ..model.objective import sigma_from_uniform, stratified_uniform
from .streams import generator


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """One forward pass: item indices, the noise level of each, and their place in the endless sequence."""

    items: tuple[int, ...]
    sigmas: tuple[float, ...]
    first_position: int


def plan_step(settings: TrainSettings, step: int, item_count: int, width: int, height: int) -> list[MicroBatch]:
    """The micro-batches of optimiser step `step` (from 0)."""
    per_step, size = settings.items_per_step, settings.batch_size
    items = [item_at(settings.seed, step * per_step + offset, item_count) for offset in range(per_step)]
    uniform = stratified_uniform(per_step, generator(settings.seed, "sigma", step))
    sigmas = sigma_from_uniform(
        uniform, mu=settings.sigma_mu, std=settings.sigma_std, width=width, height=height
    ).tolist()
    return [
        MicroBatch(tuple(items[start : start + size]), tuple(sigmas[start : start + size]), step * per_step + start)
        for start in range(0, per_step, size)
    ]


def item_at(seed: int, position: int, item_count: int) -> int:
    """The item at a position of the endless shuffled sequence: every epoch shows each item exactly once."""
    epoch, offset = divmod(position, item_count)
    return int(torch.randperm(item_count, generator=generator(seed, "order", epoch))[offset])


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Learning rate of step `step` (from 0): linear warm-up, then constant or half a cosine down to zero."""
    warmup = min(settings.warmup_steps, settings.steps // 10)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    if settings.schedule == "constant":
        return settings.learning_rate
    progress = (step - warmup) / max(1, settings.steps - warmup)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
