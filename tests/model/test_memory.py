"""The memory that is predicted, against what a step at the released sizes holds; and the plans made from it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.model.memory import (
    GIB,
    MemoryMode,
    MemoryPlan,
    Sizes,
    choose_plan,
    largest_size_that_fits,
    make_plan,
    measure_sizes,
)
from meta_model import measured_step, meta_patcher

TEXT_TOKENS = 300
RESIDENT, OFFLOADED, STREAMED = MemoryMode
SETTINGS = TrainSettings()


@pytest.fixture(scope="module")
def patcher() -> Any:
    return meta_patcher()


def stored_as(sizes: Sizes, bytes_per_weight: float) -> Sizes:
    """The same network in another format than bf16."""
    cast = 2 * 4608 * 13824
    return dataclasses.replace(sizes, block_weights=int(sizes.block_weights * bytes_per_weight / 2), cast_weight=cast)


FEWER = 9
"""Blocks where all 34 would only take longer."""
CASES: dict[str, tuple[dict[str, Any], MemoryMode, int, tuple[int, int]]] = {
    "1024": ({}, RESIDENT, 0, (1024, 1024)),
    "512": ({}, RESIDENT, 0, (512, 512)),
    "1536x1024": ({}, RESIDENT, 0, (1536, 1024)),
    "ten blocks kept": ({}, RESIDENT, 10, (1024, 1024)),
    "all kept": ({}, RESIDENT, FEWER, (768, 768)),
    "batch of 2": ({"batch_size": 2}, RESIDENT, 0, (1024, 1024)),
    "accumulated": ({"gradient_accumulation": 2}, RESIDENT, 0, (1024, 1024)),
    "rank 128": ({"rank": 128}, RESIDENT, 0, (1024, 1024)),
    "rank 128 at 512": ({"rank": 128}, RESIDENT, 0, (512, 512)),
    "modulation": ({"train_modulation": True}, RESIDENT, 0, (1024, 1024)),
    "offloaded": ({}, OFFLOADED, 0, (1024, 1024)),
    "offloaded, 512": ({}, OFFLOADED, 0, (512, 512)),
    "offloaded, rank 128": ({"rank": 128}, OFFLOADED, 0, (1024, 1024)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_predicted_peak_is_the_one_that_a_step_has(patcher: Any, case: str) -> None:
    """Beside the weights, which are counted from the model and not predicted."""
    options, mode, kept, size = CASES[case]
    patcher = patcher if case in ("1024", "ten blocks kept", "offloaded") else meta_patcher(blocks=FEWER)
    settings = dataclasses.replace(SETTINGS, **options)
    sizes = dataclasses.replace(measure_sizes(patcher, settings, size, TEXT_TOKENS), cast_weight=0)
    plan = make_plan(sizes, mode, kept_blocks=kept)
    measured = measured_step(patcher, settings, plan, size, TEXT_TOKENS)
    assert 0.95 < plan.training_bytes / measured < 1.05, (plan.training_bytes / GIB, measured / GIB)


# ---- plans ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fp8(patcher: Any) -> Sizes:
    return stored_as(measure_sizes(patcher, SETTINGS, (1024, 1024), TEXT_TOKENS), 1.0)


def test_the_goals_for_an_fp8_base_at_1024(fp8: Sizes) -> None:
    peaks = [make_plan(fp8, mode).predicted_bytes / GIB for mode in MemoryMode]
    assert peaks[RESIDENT] <= 12.0 and peaks[OFFLOADED] <= 10.5 and peaks[STREAMED] <= 6.0, peaks


@pytest.mark.parametrize("bytes_per_weight", [0.5625, 1.0, 2.0], ids=["nvfp4", "fp8 or int8", "bf16"])
@pytest.mark.parametrize("card", [6, 8, 12, 16, 24, 80])
def test_a_card_gets_the_fastest_plan_that_fits(patcher: Any, card: int, bytes_per_weight: float) -> None:
    sizes = stored_as(measure_sizes(patcher, SETTINGS, (1024, 1024), TEXT_TOKENS), bytes_per_weight)
    available = int(card * 0.93 * GIB)
    plan = choose_plan(sizes, SETTINGS, available)
    assert plan.predicted_bytes <= available
    for mode in MemoryMode:
        if mode < plan.mode:
            assert make_plan(sizes, mode).predicted_bytes > available * 0.9
    if 0 < plan.kept_blocks < sizes.blocks:
        assert make_plan(sizes, plan.mode, kept_blocks=plan.kept_blocks + 1).predicted_bytes > available * 0.9


def test_a_card_of_any_size_down_to_six_gib_trains_every_format_at_1024(patcher: Any) -> None:
    for bytes_per_weight in (0.5625, 1.0, 2.0):
        sizes = stored_as(measure_sizes(patcher, SETTINGS, (1024, 1024), TEXT_TOKENS), bytes_per_weight)
        assert make_plan(sizes, MemoryMode.STREAMED).predicted_bytes < 5 * GIB


def test_every_step_down_predicts_less_and_the_last_is_all_streamed(fp8: Sizes) -> None:
    plan: MemoryPlan | None = make_plan(fp8, MemoryMode.RESIDENT, kept_blocks=fp8.blocks)
    seen: list[MemoryPlan] = []
    while plan:
        seen.append(plan)
        plan = plan.smaller()
    assert [(p.mode, p.kept_blocks) for p in seen] == [(RESIDENT, 34), (RESIDENT, 0), (OFFLOADED, 0), (STREAMED, 0)]
    peaks = [p.predicted_bytes for p in seen]
    assert peaks == sorted(peaks, reverse=True)
    assert seen[-1].resident_bytes == 0


def test_a_plan_that_streams_some_weights_steps_down_to_streaming_all(fp8: Sizes) -> None:
    some = make_plan(fp8, MemoryMode.STREAMED, resident_bytes=3 * GIB)
    smaller = some.smaller()
    assert smaller and smaller.resident_bytes == 0 and smaller.smaller() is None
    assert some.leave_bytes(24 * GIB) + some.resident_bytes + fp8.outer_weights == some.predicted_bytes
    assert smaller.leave_bytes(24 * GIB) == 24 * GIB


@pytest.mark.parametrize("mode", ["resident", "offloaded", "streamed"])
def test_a_mode_asked_for_by_name_is_taken_on_any_card(fp8: Sizes, mode: str) -> None:
    settings = dataclasses.replace(SETTINGS, memory_mode=mode)
    for available in (2 * GIB, 12 * GIB, 140 * GIB):
        plan = choose_plan(fp8, settings, available)
        assert str(plan.mode) == mode
        if mode == "streamed":
            assert plan.resident_bytes == 0


def test_without_checkpointing_all_blocks_are_kept_where_they_fit(fp8: Sizes) -> None:
    settings = dataclasses.replace(SETTINGS, gradient_checkpointing=False)
    assert choose_plan(fp8, settings, 140 * GIB).kept_blocks == fp8.blocks
    assert choose_plan(fp8, settings, 12 * GIB) == choose_plan(fp8, SETTINGS, 12 * GIB)


def test_the_size_that_is_advised_fits_and_is_smaller(patcher: Any) -> None:
    settings = dataclasses.replace(SETTINGS, batch_size=8)
    for available in (6 * GIB, 4 * GIB):
        size = largest_size_that_fits(patcher, settings, (1536, 1024), TEXT_TOKENS, available)
        assert size and size[0] % 16 == size[1] % 16 == 0 and size[0] < 1536 and abs(size[0] / size[1] - 1.5) < 0.1
        assert make_plan(measure_sizes(patcher, settings, size, TEXT_TOKENS), STREAMED).predicted_bytes < available
    assert largest_size_that_fits(patcher, settings, (1536, 1024), TEXT_TOKENS, GIB // 2) is None


def test_the_plan_says_what_it_does(fp8: Sizes) -> None:
    assert str(make_plan(fp8, RESIDENT, kept_blocks=4)).startswith("resident, 30 of 34 blocks recomputed: ")
