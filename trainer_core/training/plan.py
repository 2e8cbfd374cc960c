"""What a step does, before it is done: which images, which noise levels, which learning rate.

All of it is computed from the settings and the step number alone.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import torch

from ..config import TrainSettings
from ..errors import SettingsError
from ..model.objective import sigma_from_uniform, stratified_uniform
from .streams import generator


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """One forward pass: item indices, the noise level of each, and their place in the endless sequence."""

    items: tuple[int, ...]
    sigmas: tuple[float, ...]
    first_position: int


def plan_step(
    settings: TrainSettings, step: int, item_count: int, width: int, height: int, *, rank: int = 0, world: int = 1
) -> list[MicroBatch]:
    """The micro-batches of optimiser step `step` (from 0), or those of them that process `rank` of `world` computes.

    The items of a step and their noise levels do not depend on `world`.
    """
    per_step, size = settings.items_per_step, settings.batch_size
    trained = trained_items(settings, item_count)
    places = items_at(settings.seed, range(step * per_step, (step + 1) * per_step), len(trained))
    items = [trained[place] for place in places]
    uniform = stratified_uniform(per_step, generator(settings.seed, "sigma", step))
    sigmas = sigma_from_uniform(
        uniform, mu=settings.sigma_mu, std=settings.sigma_std, width=width, height=height
    ).tolist()
    own = share_of_step(settings, rank, world)
    parts = [slice(start, min(start + size, own.stop)) for start in own[::size]]
    return [MicroBatch(tuple(items[part]), tuple(sigmas[part]), step * per_step + part.start) for part in parts]


def share_of_step(settings: TrainSettings, rank: int, world: int) -> range:
    """Which items of every step process `rank` of `world` computes. Raises `SettingsError` for unequal shares."""
    per_step = settings.items_per_step
    if per_step % world:
        possible = ", ".join(str(n) for n in range(1, per_step + 1) if per_step % n == 0)
        raise SettingsError(
            f"A step of {per_step} images (batch_size {settings.batch_size} x gradient_accumulation "
            f"{settings.gradient_accumulation}) cannot be shared equally by {world} processes. Choose batch_size and "
            f"gradient_accumulation so that their product is a multiple of {world}, or start one of these numbers of "
            f"processes: {possible}."
        )
    share = per_step // world
    return range(rank * share, (rank + 1) * share)


def held_out_items(settings: TrainSettings, item_count: int) -> tuple[int, ...]:
    """The items that are never trained on, in order. Raises `SettingsError` where none would be left to train on."""
    count = settings.validation_images
    if count >= item_count:
        raise SettingsError(
            f"validation_images is {count}, of {item_count} in all, so no image is left to train on. Hold out fewer: "
            "a tenth of the images is usual."
        )
    return _split(settings.seed, count, item_count)[0]


def trained_items(settings: TrainSettings, item_count: int) -> tuple[int, ...]:
    """The items that are trained on, in order. Raises as `held_out_items`."""
    return _split(settings.seed, len(held_out_items(settings, item_count)), item_count)[1]


@functools.lru_cache(maxsize=2)
def _split(seed: int, held_out: int, item_count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if not held_out:
        return (), tuple(range(item_count))
    chosen = set(torch.randperm(item_count, generator=generator(seed, "validation"))[:held_out].tolist())
    return tuple(sorted(chosen)), tuple(item for item in range(item_count) if item not in chosen)


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
