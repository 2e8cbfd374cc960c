"""Shared by the tests of the model and training rooms: formats, example inputs, adapters with values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FORMATS = ("fp32", "bf16", "fp8_scaled", "nvfp4", "int8_convrot")
RANK = 8


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


def fill_up(adapters: Any, scale: float = 0.05) -> None:
    """Give every `up` matrix values, so that both matrices take part."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in adapters.parameters().items():
            if name.endswith(".up"):
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * scale)


def example(width: int, *, batch: int = 1, tokens: int = 7, latent: tuple[int, int] = (4, 6), seed: int = 1) -> Any:
    """(noised, sigma, text, target) for a network of that width."""
    draw = torch.Generator().manual_seed(seed)
    noised = torch.randn(batch, 128, *latent, generator=draw)
    target = torch.randn(batch, 128, *latent, generator=draw)
    text = torch.randn(batch, tokens, width, generator=draw)
    sigma = torch.linspace(0.2, 0.9, batch) if batch > 1 else torch.tensor([0.6])
    return noised, sigma, text, target
