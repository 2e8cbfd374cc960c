"""A tiny Ideogram 4 made of ComfyUI's own classes, in memory: two blocks of width 256, random weights, fp32."""

from __future__ import annotations

import math

import comfy.model_base
import comfy.ops
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

TINY_CONFIG = {
    "image_model": "ideogram4",
    "in_channels": 128,
    "num_layers": 2,
    "num_attention_heads": 1,
    "attention_head_dim": 256,
    "intermediate_size": 512,
    "adaln_dim": 64,
    "llm_features_dim": 13 * 32,
    "rope_theta": 5_000_000,
    "mrope_section": [24, 20, 20],
    "norm_eps": 1e-5,
}


class _TinyIdeogram4(comfy.supported_models.Ideogram4):
    unet_extra_config = {}  # noqa: RUF012 - the sizes of the released model, which would override ours


def tiny_comfy_model(seed: int = 0, **overrides: object) -> ModelPatcher:
    """ComfyUI's `model_base.Ideogram4` in a ModelPatcher on the CPU. overrides: entries of TINY_CONFIG."""
    config = _TinyIdeogram4({**TINY_CONFIG, **overrides})
    config.set_inference_dtype(torch.float32, None)
    config.custom_operations = comfy.ops.disable_weight_init
    model = comfy.model_base.Ideogram4(config, device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.diffusion_model.named_parameters():
        parameter.requires_grad_(False)
        if parameter.ndim == 2:
            parameter.normal_(std=1 / math.sqrt(parameter.shape[1]), generator=generator)
        else:
            parameter.normal_(mean=float("norm" in name), std=0.1, generator=generator)
    return ModelPatcher(model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))


def linear_shapes(patcher: ModelPatcher) -> dict[str, tuple[int, int]]:
    """(out, in) of every block linear, by canonical path."""
    weights = patcher.model.diffusion_model.state_dict()
    return {
        key.removesuffix(".weight"): tuple(weight.shape)
        for key, weight in weights.items()
        if key.startswith("layers.") and weight.ndim == 2
    }


def comfy_deltas(patcher: ModelPatcher, lora: dict[str, Tensor]) -> dict[str, Tensor]:
    """What ComfyUI's LoRA code adds to each weight for the state dict `lora`, at strength 1 and in fp32.

    Asserts that ComfyUI understands every key.
    """
    import comfy.lora
    import comfy.lora_convert

    key_map = comfy.lora.model_lora_keys_unet(patcher.model, {})
    used: set[str] = set()
    patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(lora), key_map, log_missing=False)
    for adapter in patches.values():
        used |= adapter.loaded_keys
    assert set(lora) <= used, sorted(set(lora) - used)
    weights = patcher.model.state_dict()
    return {
        key.removeprefix("diffusion_model.").removesuffix(".weight"): comfy.lora.calculate_weight(
            [(1.0, adapter, 1.0, None, None)], torch.zeros_like(weights[key]), key
        )
        for key, adapter in patches.items()
    }
