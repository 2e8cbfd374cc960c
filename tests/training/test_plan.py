"""Item order, noise levels, learning rate and randomness, as pure functions of settings and step."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.training.plan import items_at, learning_rate, plan_step
from ideogram4_lora_trainer.trainer_core.training.streams import generator


def plan(settings: TrainSettings, step: int, items: int = 5) -> list:
    return plan_step(settings, step, items, 1024, 1024)


def test_every_epoch_shows_every_item_once_in_another_order() -> None:
    settings = TrainSettings(batch_size=2, gradient_accumulation=3, seed=4)
    shown = [item for step in range(10) for micro in plan(settings, step, 10) for item in micro.items]
    epochs = [shown[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


@pytest.mark.parametrize(("start", "count", "items"), [(0, 1, 1), (7, 30, 4), (19, 2, 10), (20, 10, 10), (3, 12, 5)])
def test_the_order_is_that_of_the_epochs_in_a_row(start: int, count: int, items: int) -> None:
    """Resumed runs of earlier versions go on in the same order."""
    epochs = range(start // items, (start + count - 1) // items + 1)
    drawn = torch.cat([torch.randperm(items, generator=generator(6, "order", epoch)) for epoch in epochs])
    first = start - epochs.start * items
    assert items_at(6, range(start, start + count), items) == drawn[first : first + count].tolist()


def test_a_step_is_the_same_whoever_asks_and_differs_from_its_neighbours() -> None:
    settings = TrainSettings(batch_size=2, gradient_accumulation=2)
    assert plan(settings, 7) == plan(settings, 7)
    assert plan(settings, 7) != plan(settings, 8)
    assert plan(settings, 7) != plan(TrainSettings(batch_size=2, gradient_accumulation=2, seed=1), 7)


@pytest.mark.parametrize(("batch", "accumulation"), [(1, 12), (12, 1), (3, 4)])
def test_splitting_a_step_changes_nothing_but_the_split(batch: int, accumulation: int) -> None:
    settings = TrainSettings(batch_size=batch, gradient_accumulation=accumulation)
    whole = plan(TrainSettings(batch_size=12), 3)[0]
    micros = plan(settings, 3)
    assert len(micros) == accumulation
    assert tuple(item for micro in micros for item in micro.items) == whole.items
    assert tuple(sigma for micro in micros for sigma in micro.sigmas) == whole.sigmas
    assert [micro.first_position for micro in micros] == [whole.first_position + batch * i for i in range(accumulation)]


def test_noise_levels_of_a_step_are_stratified() -> None:
    levels = sorted(sigma for micro in plan(TrainSettings(gradient_accumulation=8), 0) for sigma in micro.sigmas)
    edges = [float(torch.sigmoid(0.6931 + 1.5 * torch.special.ndtri(torch.tensor(k / 8)))) for k in range(9)]
    assert all(low <= level <= high for level, low, high in zip(levels, edges, edges[1:], strict=False))


def test_learning_rate_warms_up_then_stays_or_falls_to_zero() -> None:
    constant = TrainSettings(steps=100, warmup_steps=4, learning_rate=1e-4)
    assert [learning_rate(constant, step) / 1e-4 for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert learning_rate(constant, 99) == 1e-4
    cosine = TrainSettings(steps=100, warmup_steps=0, learning_rate=1e-4, schedule="cosine")
    rates = [learning_rate(cosine, step) for step in range(100)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1e-4
    assert rates[50] == pytest.approx(5e-5)
    assert 0 < rates[99] < 1e-7


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 30])
def test_warm_up_takes_at_most_a_tenth_of_the_run(steps: int) -> None:
    settings = TrainSettings(steps=steps, warmup_steps=20, learning_rate=1e-4)
    assert learning_rate(settings, steps // 10) == 1e-4
    assert all(learning_rate(settings, step) > 0 for step in range(steps))


def test_streams_are_independent_and_reproducible() -> None:
    draws = Counter()
    for seed in range(3):
        for purpose in ("noise", "sigma", "order"):
            for step in range(50):
                draws[generator(seed, purpose, step).initial_seed()] += 1
    assert max(draws.values()) == 1
    assert torch.equal(
        torch.rand(3, generator=generator(1, "noise", 2)), torch.rand(3, generator=generator(1, "noise", 2))
    )


def test_streams_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    plan(TrainSettings(batch_size=4), 5)
    assert torch.equal(before, torch.get_rng_state())
