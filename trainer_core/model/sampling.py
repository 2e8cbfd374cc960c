"""Pictures as ComfyUI's own text-to-image graph makes them, from a model and the adapters that it is training.

Every step of the graph is the node itself, called as the executor calls it: so a preview is the picture that the saved
LoRA gives in the stock graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from comfy_extras import nodes_custom_sampler, nodes_flux, nodes_ideogram4

from ..errors import WrongTextEncoder
from ..lora_files import LoraWeights
from . import host
from .apply import apply_lora
from .encode import vae_statistics
from .network import check_architecture

MIN_SIDE, MAX_SIDE = 64, 2048
GUIDANCE, LATE_GUIDANCE, LATE_FROM = 7.0, 3.0, 0.7
"""Weight of the text against the unconditional model, and the lower one of the last three tenths of the schedule."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """Steps of sampling and their noise level law, as Ideogram publishes them."""

    steps: int
    mu: float
    std: float


PRESETS = {"turbo": Preset(12, 0.5, 1.75), "default": Preset(20, 0.0, 1.75), "quality": Preset(48, 0.0, 1.5)}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PictureSettings:
    """What pictures are made of, and with what."""

    prompts: tuple[str, ...]
    conditionings: tuple[Any, ...]
    """ComfyUI's CONDITIONING of each prompt."""
    vae: Any
    unconditional: Any | None
    """`ModelPatcher` of the unconditional model; without it there is no guidance."""
    width: int
    height: int
    preset: str
    """One of `PRESETS`."""
    seed: int
    """The same for all prompts."""

    @property
    def guided(self) -> bool:
        return self.unconditional is not None


def encode_prompt(clip: Any, prompt: str) -> Any:
    """The CONDITIONING of a prompt, as CLIP Text Encode gives it."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def check_parts(settings: PictureSettings, patcher: Any) -> None:
    """Raises `WrongModel`, `WrongVae` or `WrongTextEncoder` when something is connected that cannot make pictures."""
    vae_statistics(settings.vae)
    if settings.unconditional is not None:
        check_architecture(settings.unconditional)
    width = check_architecture(patcher).llm_cond_proj.in_features
    for conditioning in settings.conditionings:
        if conditioning[0][0].shape[-1] != width:
            raise WrongTextEncoder(
                f"The text encoder of the pictures gives features of width {conditioning[0][0].shape[-1]}, Ideogram 4 "
                f"needs {width}. Load qwen3vl_8b with Load CLIP and set its type to ideogram4."
            )


def sample_picture(
    patcher: Any,
    settings: PictureSettings,
    prompt: int,
    *,
    modules: Mapping[str, LoraWeights] | None = None,
    strength: float = 1.0,
    bypass: bool = True,
) -> np.ndarray:
    """The picture of prompt number `prompt` as uint8 (height, width, 3), with the LoRA `modules` on the model.

    `bypass` adds the LoRA in the forward pass, which is exact on every base; else it is merged. Leaves random states
    as they were. Raises ComfyUI's interrupt, and whatever its nodes raise.
    """
    preset, device = PRESETS[settings.preset], patcher.load_device
    width, height = settings.width, settings.height
    with torch.inference_mode(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model = apply_lora(patcher, modules, strength=strength, bypass=bypass) if modules else patcher
        if settings.guided:
            model = nodes_custom_sampler.CFGOverride.execute(model, LATE_GUIDANCE, LATE_FROM, 1.0)[0]
        guider = nodes_custom_sampler.DualModelGuider.execute(
            model,
            settings.conditionings[prompt],
            GUIDANCE if settings.guided else 1.0,
            model_negative=settings.unconditional,
        )[0]
        sigmas = nodes_ideogram4.Ideogram4Scheduler.execute(preset.steps, width, height, preset.mu, preset.std)[0]
        noise = nodes_custom_sampler.RandomNoise.execute(settings.seed)[0]
        sampler = nodes_custom_sampler.KSamplerSelect.execute("euler")[0]
        empty = nodes_flux.EmptyFlux2LatentImage.execute(width, height, 1)[0]
        latent = nodes_custom_sampler.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, empty)[0]
        host.raise_if_interrupted()
        pixels = settings.vae.decode(latent["samples"])
        return _as_bytes(pixels.reshape(-1, *pixels.shape[-3:])[0])


def _as_bytes(pixels: torch.Tensor) -> np.ndarray:
    """(H, W, 3) from 0 to 1 as uint8, rounded as ComfyUI's Save Image does."""
    return np.clip(255.0 * pixels.cpu().numpy(), 0, 255).astype(np.uint8)
