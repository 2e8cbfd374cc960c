"""What a step does, before it is done: which images, which noise levels, which learning rate.

All of it is computed from the settings and the step number alone.
"""

from __future__ import annotations

import dataclasses
import functools
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
    items = items_at(settings.seed, range(step * per_step, (step + 1) * per_step), item_count)
    uniform = stratified_uniform(per_step, generator(settings.seed, "sigma", step))
    sigmas = sigma_from_uniform(
        uniform, mu=settings.sigma_mu, std=settings.sigma_std, width=width, height=height
    ).tolist()
    return [
        MicroBatch(tuple(items[start : start + size]), tuple(sigmas[start : start + size]), step * per_step + start)
        for start in range(0, per_step, size)
    ]


def items_at(seed: int, positions: range, item_count: int) -> list[int]:
    """The items at positions of the endless shuffled sequence: every epoch shows each item exactly once."""
    items: list[int] = []
    while len(items) < len(positions):
        epoch, start = divmod(positions.start + len(items), item_count)
        items += _order(seed, epoch, item_count)[start : start + len(positions) - len(items)]
    return items


# A pure function: the cache only saves drawing an epoch's order again in each of its steps. Two places, because
# a step may end in another epoch than it began in.
@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, item_count: int) -> tuple[int, ...]:
    return tuple(torch.randperm(item_count, generator=generator(seed, "order", epoch)).tolist())


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Learning rate of step `step` (from 0): linear warm-up, then constant or half a cosine towards zero."""
    warmup = min(settings.warmup_steps, settings.steps // 10)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    if settings.schedule == "constant":
        return settings.learning_rate
    progress = (step - warmup) / max(1, settings.steps - warmup)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
