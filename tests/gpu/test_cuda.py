"""The same run gives the same result on a GPU, in one go or in two, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.model import host
from networks import FORMATS, place_under

DEVICE = os.environ.get("TEST_DEVICE", "")
pytestmark = pytest.mark.skipif(DEVICE not in ("cuda", "cpu"), reason="TEST_DEVICE is not set")

SETTINGS = TrainSettings(steps=10, rank=8, learning_rate=1e-3, gradient_accumulation=2)


@pytest.fixture
def tf32() -> Iterator[None]:
    """What other packs switch on, and what would collapse the image positions."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


def same_bits(one: Any, other: Any) -> bool:
    return one.losses == other.losses and all(
        torch.equal(weights.up, other.modules[path].up) and torch.equal(weights.down, other.modules[path].down)
        for path, weights in one.modules.items()
    )


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_same_run_gives_the_same_bits_even_where_tf32_is_on(
    tiny_model: Callable[..., Any], train: Callable[..., Any], fmt: str, tf32: None
) -> None:
    """The self-check inside counts the rotary positions on this very device."""
    patcher = tiny_model(fmt)
    assert patcher.load_device.type == DEVICE
    assert same_bits(train(patcher, SETTINGS), train(patcher, SETTINGS))


@pytest.mark.skipif(DEVICE != "cuda", reason="torch counts no memory of a CPU")
@pytest.mark.parametrize("mode", ["resident", "offloaded", "streamed"])
def test_all_memory_is_given_back(tiny_model: Callable[..., Any], train: Callable[..., Any], mode: str) -> None:
    patcher = tiny_model("bf16")
    with torch.inference_mode():
        host.load_on_device(patcher, 0)
    before = torch.cuda.memory_allocated()
    train(patcher, SETTINGS, memory_mode=mode)
    assert torch.cuda.memory_allocated() <= before


@pytest.mark.parametrize("mode", ["resident", "offloaded", "streamed"])
@pytest.mark.parametrize("fmt", ["bf16", "fp8_scaled"])
def test_a_resumed_run_is_the_uninterrupted_run(
    tiny_model: Callable[..., Any], train: Callable[..., Any], tmp_path: Path, fmt: str, mode: str
) -> None:
    patcher = tiny_model(fmt)
    settings = dataclasses.replace(SETTINGS, steps=20, warmup_steps=0, memory_mode=mode)
    whole = train(patcher, settings)
    half = train(patcher, settings, steps=10, place=place_under(tmp_path / "parts"))
    rest = train(patcher, settings, place=place_under(tmp_path / "parts", resume=half.run))
    assert rest.losses[:10] == half.losses
    assert same_bits(whole, rest)
