"""Shared by the tests of the model and training rooms: formats, example inputs, adapters with values."""

from __future__ import annotations

from pathlib import Path
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


def training_data(
    folder: Path, patcher: Any, *, count: int = 3, size: tuple[int, int] = (64, 96), lengths: tuple[int, ...] = (7,)
) -> Any:
    """Training data of random latents and captions for a tiny model, as the encode step would leave it."""
    from ideogram4_lora_trainer.trainer_core.model.cache import EncodingCache
    from ideogram4_lora_trainer.trainer_core.model.encode import EncodedItem, TrainingData, projection_identity
    from ideogram4_lora_trainer.trainer_core.model.latents import ideogram_statistics

    cache, statistics = EncodingCache(folder), ideogram_statistics()
    width = patcher.model.diffusion_model.input_proj.out_features
    items = []
    for index in range(count):
        draw = torch.Generator().manual_seed(index)
        latent = torch.randn(128, size[1] // 16, size[0] // 16, generator=draw)
        text = torch.randn(lengths[index % len(lengths)], width, generator=draw)
        item = EncodedItem(f"{index}.png", f"caption {index}", f"{index:02}aa", f"{index:02}bb")
        cache.store(item.latent_key, statistics.denormalize(latent))
        cache.store(item.text_key, text)
        items.append(item)
    return TrainingData(
        items=tuple(items),
        width=size[0],
        height=size[1],
        cache=cache,
        projection=projection_identity(patcher),
        vae_statistics=statistics,
        default_caption="",
        newly_encoded=0,
    )


def place_under(folder: Path, **options: Any) -> Any:
    """A `RunPlace` with its two folders under `folder`."""
    from ideogram4_lora_trainer.trainer_core.training.runs import RunPlace

    return RunPlace(runs_folder=folder / "runs", loras_folder=folder / "loras", **options)


def snapshot(patcher: Any) -> Any:
    """Everything of ComfyUI that a run could leave changed."""
    import comfy.model_management

    return (
        {name: tensor.clone() for name, tensor in patcher.model.state_dict().items()},
        [
            (name, id(m), len(m._forward_hooks), len(m._forward_pre_hooks), m.training)
            for name, m in patcher.model.named_modules()
        ],
        {name: p.requires_grad for name, p in patcher.model.named_parameters()},
        comfy.model_management.in_training,
        torch.backends.cuda.matmul.fp32_precision,
        torch.is_grad_enabled(),
        torch.get_rng_state(),
    )


def unchanged(before: Any, after: Any) -> bool:
    """Whether two snapshots are equal, weights bit for bit."""
    tensors = all(torch.equal(before[0][k], after[0][k]) for k in before[0])
    return tensors and before[1:-1] == after[1:-1] and torch.equal(before[-1], after[-1])
