"""Memory modes on a GPU: the same numbers, the memory that was predicted, and less of it when it runs out.

What counts bytes uses a few blocks of the released width: a tiny network's are lost in the allocator's rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.model import host
from networks import FORMATS, relative_error

DEVICE = os.environ.get("TEST_DEVICE", "")
pytestmark = pytest.mark.skipif(DEVICE not in ("cuda", "cpu"), reason="TEST_DEVICE is not set")
on_gpu = pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")

SETTINGS = TrainSettings(steps=20, rank=4, learning_rate=1e-3, warmup_steps=0)
MODES = ("resident", "offloaded", "streamed")
BLOCKS, BLOCK_VALUES = 4, 255_000_000
"""Values in the linear layers of a block, at least."""
FULL_SIZE = {"size": (1024, 1024), "lengths": (128,)}
FEW_STEPS = {"steps": 3, "rank": 32}


def most_different(one: Any, other: Any) -> float:
    """Largest relative error of an adapter matrix."""
    return max(
        relative_error(getattr(other.modules[path], name), getattr(weights, name))
        for path, weights in one.modules.items()
        for name in ("down", "up")
    )


@contextmanager
def believed_free(amount: int) -> Iterator[None]:
    """Let runs plan for so many bytes, whatever the device has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "usable_memory", lambda _device: amount)
        yield


def trained_with_peak(train: Callable[..., Any], patcher: Any, mode: str, **options: Any) -> tuple[Any, Any, int]:
    """The result, the last plan, and the most bytes that were allocated while steps were computed."""
    with torch.inference_mode():
        host.unload(patcher)
    torch.cuda.empty_cache()
    plans: list[Any] = []
    result = train(patcher, SETTINGS, memory_mode=mode, on_plan=plans.append, **{**FEW_STEPS, **options})
    return result, plans[-1], torch.cuda.max_memory_allocated()


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_mode_gives_the_same_numbers(tiny_model: Callable[..., Any], train: Callable[..., Any], fmt: str) -> None:
    patcher = tiny_model(fmt)
    with believed_free(2**50):
        kept = train(patcher, SETTINGS, memory_mode="resident")
    with believed_free(0):
        for mode in MODES:
            assert most_different(kept, train(patcher, SETTINGS, memory_mode=mode)) <= 1e-5, mode


@on_gpu
@pytest.mark.parametrize("fmt", ["bf16", "fp8_scaled"])
def test_every_mode_gives_the_same_numbers_at_the_released_width(
    real_width: Callable[..., Any], train: Callable[..., Any], fmt: str
) -> None:
    patcher = real_width(2, fmt)
    size: dict[str, Any] = {"size": (256, 256), "lengths": (16,)}
    with believed_free(2**50):
        kept = train(patcher, SETTINGS, memory_mode="resident", **size)
    with believed_free(0):
        for mode in MODES:
            assert most_different(kept, train(patcher, SETTINGS, memory_mode=mode, **size)) <= 1e-5, mode


@on_gpu
@pytest.mark.parametrize(
    ("fmt", "mode"),
    [
        *(("bf16", mode) for mode in ("kept", *MODES)),
        ("fp8_scaled", "resident"),
        ("fp8_scaled", "streamed"),
        ("nvfp4", "streamed"),
        ("int8_convrot", "resident"),
    ],
)
def test_the_peak_is_what_was_predicted(
    real_width: Callable[..., Any], train: Callable[..., Any], fmt: str, mode: str
) -> None:
    """`kept`: resident, with room for the activations of all blocks."""
    patcher, kept = real_width(BLOCKS, fmt), mode == "kept"
    with believed_free(2**50 if kept else 0):
        _, plan, peak = trained_with_peak(train, patcher, "resident" if kept else mode, **FULL_SIZE)
    assert plan.kept_blocks == (BLOCKS if kept else 0)
    assert peak == pytest.approx(plan.predicted_bytes, rel=0.1)


@on_gpu
def test_streamed_weights_do_not_grow_with_the_network(
    real_width: Callable[..., Any], train: Callable[..., Any]
) -> None:
    """Never more than two blocks' are on the device, so three blocks more change nothing."""
    block_bytes = 2 * BLOCK_VALUES
    size: dict[str, Any] = {"size": (256, 256), "lengths": (16,), "rank": 4}
    with believed_free(0):
        peaks = {
            (mode, blocks): trained_with_peak(train, real_width(blocks, "bf16"), mode, **size)[2]
            for mode in ("resident", "streamed")
            for blocks in (3, 6)
        }
    assert peaks["resident", 6] - peaks["resident", 3] > 2.9 * block_bytes
    assert peaks["streamed", 6] - peaks["streamed", 3] < 0.2 * block_bytes


@on_gpu
def test_out_of_memory_steps_down_to_what_fits(real_width: Callable[..., Any], train: Callable[..., Any]) -> None:
    """A limit that torch keeps to, and a plan that knows nothing of it."""
    patcher = real_width(BLOCKS, "bf16")
    with believed_free(0):
        expected, _, least = trained_with_peak(train, patcher, "streamed", **FULL_SIZE)
    with believed_free(2**50):
        _, wished, most = trained_with_peak(train, patcher, "auto", **FULL_SIZE)
    assert wished.kept_blocks == BLOCKS and most > 1.5 * least
    total, notes = torch.cuda.get_device_properties(0).total_memory, []
    torch.cuda.set_per_process_memory_fraction((least + most) / 2 / total)
    try:
        with believed_free(2**50):
            found, plan, peak = trained_with_peak(train, patcher, "auto", on_note=notes.append, **FULL_SIZE)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("ran out of memory" in note for note in notes)
    assert plan.kept_blocks < BLOCKS and peak < (least + most) / 2
    assert most_different(expected, found) <= 1e-5
