"""How much memory a run needs beside the base weights.

Shapes: B batch, T tokens (image and text), D model width, F feed-forward width, R rank.
"""

from __future__ import annotations

import enum
from typing import Any

import comfy.model_management
import torch

from ..config import TrainSettings
from .host import ComfyModule


class MemoryMode(enum.IntEnum):
    """How a run lives with the memory there is; each needs less than the one before, and gives the same numbers."""

    KEEP = 0
    RECOMPUTE = 1
    OFFLOAD = 2

    def __str__(self) -> str:
        return (
            "all activations kept",
            "activations recomputed",
            "activations recomputed and weights fetched from main memory",
        )[self]


_GRADIENT_AND_ADAMW = 4 * 4
"""Bytes per trained value: fp32 weight, gradient and two moments."""
_TEXT_TOKENS = 512
"""Room for a long caption."""


def activation_bytes(diffusion_model: ComfyModule, settings: TrainSettings, width: int, height: int) -> int:
    """Estimated bytes for activations, adapters and optimiser at an image size in pixels.

    Counts, per block, the tensors that its backward keeps; with checkpointing one block at a time and the inputs of
    the others.
    """
    block = diffusion_model.layers[0]
    model_width, ffn_width = block.feed_forward.w1.in_features, block.feed_forward.w1.out_features
    blocks = len(diffusion_model.layers)
    tokens = settings.batch_size * (width // 16 * (height // 16) + _TEXT_TOKENS)

    # Residual stream and norms (about 10 D wide), q k v and their rotated copies (6 D), gate, up and product (4 F).
    per_block = 2 * tokens * (16 * model_width + 4 * ffn_width)
    boundary = 2 * tokens * model_width
    kept = per_block + blocks * boundary if settings.gradient_checkpointing else blocks * per_block
    dequantised = 2 * 2 * 3 * model_width * model_width
    return kept + dequantised + _GRADIENT_AND_ADAMW * adapter_values(diffusion_model, settings)


def device_memory_bytes(device: torch.device) -> int:
    """Memory of the training device, used or not."""
    return comfy.model_management.get_total_memory(device)


def adapter_values(diffusion_model: ComfyModule, settings: TrainSettings) -> int:
    """Numbers in the adapters of a run: rank times the sides of every adapted layer."""
    block = diffusion_model.layers[0]
    linears: list[Any] = [
        block.attention.qkv,
        block.attention.o,
        *(getattr(block.feed_forward, n) for n in ("w1", "w2", "w3")),
    ]
    if settings.train_modulation:
        linears.append(block.adaln_modulation)
    return len(diffusion_model.layers) * settings.rank * sum(m.in_features + m.out_features for m in linears)
