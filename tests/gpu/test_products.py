"""Products in the weights' own fp8 and int8 train what exact ones train, nearly."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ideogram4_lora_trainer.trainer_core.config import TrainSettings

DEVICE = os.environ.get("TEST_DEVICE", "")
KNOWN = {field.name for field in dataclasses.fields(TrainSettings)}
pytestmark = [
    pytest.mark.skipif(DEVICE not in ("cuda", "cpu"), reason="TEST_DEVICE is not set"),
    pytest.mark.skipif("quantized_products" not in KNOWN, reason="no such setting"),
]

SETTINGS = TrainSettings(steps=30, rank=8, learning_rate=1e-3, warmup_steps=0)


def direction(one: Any, other: Any) -> float:
    """Cosine between what the two LoRAs add to the network's weights."""
    deltas = [
        [(run.modules[path].up @ run.modules[path].down).flatten() for path in one.modules] for run in (one, other)
    ]
    return torch.nn.functional.cosine_similarity(torch.cat(deltas[0]), torch.cat(deltas[1]), dim=0).item()


@pytest.mark.parametrize("fmt", ["fp8_scaled", "int8_convrot", "nvfp4"])
def test_quantised_products_train_nearly_the_same(
    tiny_model: Callable[..., Any], train: Callable[..., Any], fmt: str
) -> None:
    patcher = tiny_model(fmt)
    exact = train(patcher, SETTINGS)
    quantised = train(patcher, SETTINGS, quantized_products=True)
    # nvfp4 has two bits of mantissa, and its inputs are rounded to it as well.
    tolerance, alike = (0.3, 0.5) if fmt == "nvfp4" else (0.05, 0.8)
    assert quantised.losses[0] == pytest.approx(exact.losses[0], rel=tolerance)
    assert sum(quantised.losses[-10:]) == pytest.approx(sum(exact.losses[-10:]), rel=tolerance)
    assert direction(exact, quantised) > alike


def test_a_plain_base_has_nothing_to_multiply_in(tiny_model: Callable[..., Any], train: Callable[..., Any]) -> None:
    patcher = tiny_model("bf16")
    exact, asked = train(patcher, SETTINGS, steps=4), train(patcher, SETTINGS, steps=4, quantized_products=True)
    assert exact.losses == asked.losses
