"""Training on a CUDA GPU. Run with `TEST_DEVICE=cuda python dev.py test tests/gpu`; skipped otherwise."""

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
from ideogram4_lora_trainer.trainer_core.training import loop
from networks import FORMATS, place_under, training_data

pytestmark = pytest.mark.skipif(os.environ.get("TEST_DEVICE") != "cuda", reason="TEST_DEVICE=cuda is not set")

SETTINGS = TrainSettings(steps=10, rank=8, learning_rate=1e-3, gradient_accumulation=2)


@pytest.fixture
def tf32() -> Iterator[None]:
    """What other packs switch on, and what would collapse the image positions."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_same_run_gives_the_same_bits_even_where_tf32_is_on(
    tiny_model: Callable[..., Any], tmp_path: Path, fmt: str, tf32: None
) -> None:
    """The self-check inside counts the rotary positions on this very device."""
    patcher = tiny_model(fmt)
    assert patcher.load_device.type == "cuda"
    data = training_data(tmp_path, patcher, lengths=(5, 9))
    with torch.inference_mode():
        first, second = (loop.train(patcher, data, SETTINGS, place_under(tmp_path)) for _ in range(2))
    assert first.losses == second.losses
    for path, weights in first.modules.items():
        assert torch.equal(weights.up, second.modules[path].up), path
        assert torch.equal(weights.down, second.modules[path].down), path


def test_all_memory_is_given_back(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    patcher = tiny_model("bf16")
    data = training_data(tmp_path, patcher)
    with torch.inference_mode():
        host.load_on_device(patcher, 0)
        before = torch.cuda.memory_allocated()
        loop.train(patcher, data, SETTINGS, place_under(tmp_path))
    assert torch.cuda.memory_allocated() <= before


def test_a_resumed_run_is_the_uninterrupted_run(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    patcher = tiny_model("bf16")
    data = training_data(tmp_path / "cache", patcher, lengths=(5, 9))
    settings = dataclasses.replace(SETTINGS, steps=20, warmup_steps=0)
    with torch.inference_mode():
        whole = loop.train(patcher, data, settings, place_under(tmp_path / "whole"))
        half = loop.train(patcher, data, dataclasses.replace(settings, steps=10), place_under(tmp_path / "parts"))
        rest = loop.train(patcher, data, settings, place_under(tmp_path / "parts", resume=half.run))
    assert rest.losses[:10] == half.losses
    assert rest.losses == whole.losses
    for path, weights in whole.modules.items():
        assert torch.equal(weights.up, rest.modules[path].up), path
        assert torch.equal(weights.down, rest.modules[path].down), path
