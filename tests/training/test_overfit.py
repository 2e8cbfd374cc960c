"""Training learns: one picture, learnt by a LoRA, as ComfyUI's own sampling path sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import dataset_zip
from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.dataset import open_dataset
from ideogram4_lora_trainer.trainer_core.model.apply import apply_lora
from ideogram4_lora_trainer.trainer_core.model.encode import encode_dataset
from ideogram4_lora_trainer.trainer_core.model.objective import add_noise, velocity_loss, velocity_target
from ideogram4_lora_trainer.trainer_core.training.loop import train
from networks import place_under

SIGMAS = torch.tensor([0.2, 0.35, 0.5, 0.65])


def test_one_picture_is_learnt(tiny_model: Callable[..., Any], tiny_clip: Any, tiny_vae: Any, tmp_path: Path) -> None:
    import comfy.model_management

    patcher = tiny_model("bf16")
    with torch.inference_mode():
        data = encode_dataset(
            open_dataset(dataset_zip(1), name="one"),
            width=64,
            height=64,
            vae=tiny_vae,
            clip=tiny_clip,
            patcher=patcher,
            cache_folder=tmp_path,
        )
        settings = TrainSettings(steps=250, rank=32, learning_rate=3e-3, gradient_accumulation=2, schedule="cosine")
        trained = train(patcher, data, settings, place_under(tmp_path))
        applied = apply_lora(patcher, trained.modules, strength=1.0, bypass=True)

        clean = data.statistics("ideogram").normalize(data.raw_latent(0)).expand(len(SIGMAS), -1, -1, -1)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
        noised = add_noise(clean, noise, SIGMAS)
        features = tiny_clip.encode_from_tokens(tiny_clip.tokenize(data.items[0].caption))

        def measure(model: Any) -> tuple[float, float]:
            """Loss on the velocity, and how far the predicted clean latent is from the picture's."""
            comfy.model_management.load_models_gpu([model])
            model.pre_run()
            text = features.expand(len(SIGMAS), -1, -1)
            denoised = model.model.apply_model(noised, SIGMAS, c_crossattn=text)
            model.cleanup()
            velocity = (noised - denoised) / SIGMAS.view(-1, 1, 1, 1)
            loss = velocity_loss(velocity, velocity_target(clean, noise)).mean().item()
            return loss, ((denoised - clean).norm() / clean.norm()).item()

        loss_before, distance_before = measure(patcher)
        loss_after, distance_after = measure(applied)
    assert loss_after < 0.25 * loss_before
    assert distance_after < 0.5 * distance_before
    assert sum(trained.losses[-25:]) < 0.7 * sum(trained.losses[:25])
