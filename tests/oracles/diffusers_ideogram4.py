"""Real diffusers objects of a tiny Ideogram 4, to compare with: transformer, pipeline with its LoRA loader, velocity.

Conventions differ: ComfyUI's latent is (B, 128, H, W) with channel = c*4 + row*2 + column of the 2x2 patch, its sigma
is 1 at noise, and its velocity is noise - data. diffusers takes tokens (B, H*W, 128) with feature = patch*32 + c, its
time is 1 - sigma, and its velocity is data - noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import Ideogram4Pipeline, Ideogram4Transformer2DModel
from torch import Tensor

TEXT, IMAGE = 3, 2  # diffusers' token roles
HEAD_DIM = 256
SPLIT_QKV = ("to_q", "to_k", "to_v")


def diffusers_state_dict(comfy: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of ComfyUI's Ideogram 4 (keys without `diffusion_model.`) under diffusers' names."""
    renamed = {}
    for key, weight in comfy.items():
        if key.endswith(".attention.qkv.weight"):
            for name, part in zip(SPLIT_QKV, weight.chunk(3), strict=True):
                renamed[key.replace(".qkv.", f".{name}.")] = part
        else:
            renamed[key.replace(".attention.o.", ".attention.to_out.0.")] = weight
    return renamed


def tiny_transformer(comfy: Mapping[str, Tensor]) -> Ideogram4Transformer2DModel:
    """diffusers' transformer with the sizes and the very weights of a ComfyUI Ideogram 4, in their dtype, frozen."""
    hidden, in_channels = comfy["input_proj.weight"].shape
    transformer = Ideogram4Transformer2DModel(
        in_channels=in_channels,
        num_layers=1 + max(int(key.split(".")[1]) for key in comfy if key.startswith("layers.")),
        attention_head_dim=HEAD_DIM,
        num_attention_heads=hidden // HEAD_DIM,
        intermediate_size=comfy["layers.0.feed_forward.w1.weight"].shape[0],
        adaln_dim=comfy["adaln_proj.weight"].shape[0],
        llm_features_dim=comfy["llm_cond_proj.weight"].shape[1],
    )
    transformer.load_state_dict({key: weight.clone() for key, weight in diffusers_state_dict(comfy).items()})
    for parameter in transformer.parameters():
        parameter.data = parameter.data.to(comfy["input_proj.weight"].dtype)
    return transformer.requires_grad_(False).eval()


def tiny_pipeline(transformer: Ideogram4Transformer2DModel) -> Ideogram4Pipeline:
    """The real pipeline around `transformer`. The parts that its LoRA loader does not touch are left out."""
    return Ideogram4Pipeline(
        scheduler=None,
        vae=None,
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
        unconditional_transformer=None,
    )


def load_lora(transformer: Ideogram4Transformer2DModel, file: Path) -> Ideogram4Transformer2DModel:
    """Load `file` as a user of diffusers does, with `pipe.load_lora_weights`. Returns `transformer`."""
    tiny_pipeline(transformer).load_lora_weights(str(file.parent), weight_name=file.name)
    return transformer


def lora_deltas(transformer: Ideogram4Transformer2DModel) -> dict[str, Tensor]:
    """What the loaded adapters add to each weight, by ComfyUI's layer paths (q, k, v stacked to qkv)."""
    split = {
        name: module.get_delta_weight(module.active_adapters[0])
        for name, module in transformer.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    deltas = {}
    for name, delta in split.items():
        parent, _, layer = name.rpartition(".")
        if layer in SPLIT_QKV:
            rows = [split.get(f"{parent}.{part}", torch.zeros_like(delta)) for part in SPLIT_QKV]
            deltas[f"{parent}.qkv"] = torch.cat(rows)
        else:
            deltas[name.replace(".attention.to_out.0", ".attention.o")] = delta
    return deltas


def velocity(transformer: Ideogram4Transformer2DModel, latent: Tensor, text: Tensor, sigma: Tensor) -> Tensor:
    """noise - data as ComfyUI states it, (B, 128, H, W), computed by diffusers' transformer. Keeps gradients.

    latent (B, 128, H, W), text features (B, L, D) without padding, sigma (B,) with 1 for noise.
    """
    batch, _, height, width = latent.shape
    text_length, length = text.shape[1], text.shape[1] + height * width
    position_ids, segment_ids, indicator = Ideogram4Pipeline._prepare_ids(
        [text_length] * batch, height, width, text_length, latent.device
    )
    hidden = torch.cat([latent.new_zeros(batch, text_length, latent.shape[1]), to_tokens(latent)], dim=1)
    features = torch.cat([text, text.new_zeros(batch, length - text_length, text.shape[2])], dim=1)
    output = transformer(
        hidden_states=hidden,
        timestep=1 - sigma,
        encoder_hidden_states=features,
        position_ids=position_ids,
        segment_ids=segment_ids,
        indicator=indicator,
    ).sample
    return -to_latent(output[:, text_length:], height, width)


def to_tokens(latent: Tensor) -> Tensor:
    """(B, 128, H, W) with channel c*4 + patch -> (B, H*W, 128) with feature patch*32 + c."""
    batch, channels, height, width = latent.shape
    grouped = latent.reshape(batch, channels // 4, 4, height * width)
    return grouped.permute(0, 3, 2, 1).reshape(batch, height * width, channels)


def to_latent(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `to_tokens`."""
    batch, _, channels = tokens.shape
    grouped = tokens.reshape(batch, height * width, 4, channels // 4)
    return grouped.permute(0, 3, 2, 1).reshape(batch, channels, height, width)
