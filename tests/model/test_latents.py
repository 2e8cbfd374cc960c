"""Latent normalisation: the constants' order, the inverse, and ComfyUI's own normalisation."""

from __future__ import annotations

import json
from typing import Any

import torch
from ideogram4_lora_trainer.trainer_core.model import encode, latents


def test_constants_are_reordered_from_row_column_channel_to_comfyuis_order() -> None:
    published = json.loads(latents._CONSTANTS.read_text())
    statistics = latents.ideogram_statistics()
    for channel, row, column in ((0, 0, 0), (5, 1, 0), (17, 0, 1), (31, 1, 1)):
        ours, theirs = channel * 4 + row * 2 + column, (row * 2 + column) * 32 + channel
        assert statistics.shift[ours] == torch.tensor(published["shift"][theirs])
        assert statistics.scale[ours] == torch.tensor(published["scale"][theirs])


def test_denormalize_is_the_inverse_of_normalize() -> None:
    raw = torch.randn(2, 128, 3, 5)
    statistics = latents.ideogram_statistics()
    assert torch.allclose(statistics.denormalize(statistics.normalize(raw)), raw, atol=1e-5)


def test_the_vaes_statistics_are_those_comfyui_normalises_with(tiny_vae: Any) -> None:
    pixels = torch.rand(1, 64, 48, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        normalized = tiny_vae.encode(pixels)
        model = tiny_vae.first_stage_model
        moments = model.quant_conv(model.encoder(pixels.movedim(-1, 1) * 2 - 1))
        mean = moments[:, :32]
    raw = encode.vae_statistics(tiny_vae).denormalize(normalized)
    packed = mean.reshape(1, 32, 4, 2, 3, 2).permute(0, 1, 3, 5, 2, 4).reshape(1, 128, 4, 3)
    assert torch.allclose(raw, packed, atol=1e-4)


def test_the_difference_is_zero_for_equal_statistics_and_names_what_is_off() -> None:
    ours = latents.ideogram_statistics()
    assert "rms 0.000 sigma" in ours.difference_from(ours)
    moved = latents.LatentStatistics(ours.shift + 0.5 * ours.scale, ours.scale * 2)
    assert "rms 0.500 sigma (largest 0.500), scale ratio 2.000 to 2.000" in moved.difference_from(ours)
