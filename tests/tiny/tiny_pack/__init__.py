"""A ComfyUI custom node pack for tests only: lets ComfyUI's own loaders open tiny Ideogram 4 files.

ComfyUI reads the layer count of a transformer from the file but takes the widths from class attributes, and the
text encoder's sizes from a table. This pack puts a smaller set in front of both and changes nothing else, so that
loaders, quantisation, samplers and LoRA keys under test are ComfyUI's. Never install it beside real models: the text
encoder's table has no room for both.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import comfy.supported_models
import comfy.text_encoders.qwen3vl as qwen3vl
from comfy_api.latest import ComfyExtension, io

REAL_WIDTH = 4608
HEAD_DIM = 256
TINY_VISION = {"hidden_size": 64, "intermediate_size": 64, "depth": 3, "deepstack_visual_indexes": [0, 1, 2]}


class TinyIdeogram4(comfy.supported_models.Ideogram4):
    """ComfyUI's Ideogram 4 with its widths read from the file; matches any width but the real one."""

    unet_extra_config: ClassVar[dict[str, Any]] = {
        "attention_head_dim": HEAD_DIM,
        "rope_theta": 5000000,
        "mrope_section": [24, 20, 20],
        "norm_eps": 1e-5,
    }

    @classmethod
    def matches(cls, unet_config: dict[str, Any], state_dict: Any = None, unet_key_prefix: str = "") -> bool:
        if state_dict is None or not super().matches(unet_config, state_dict, unet_key_prefix):
            return False

        def shape(key: str) -> tuple[int, ...]:
            return tuple(state_dict[f"{unet_key_prefix}{key}"].shape)

        width = shape("embed_image_indicator.weight")[1]
        if width == REAL_WIDTH:
            return False
        # The loader builds the model from this same dictionary right after the match.
        unet_config.update(
            num_attention_heads=width // HEAD_DIM,
            intermediate_size=shape("layers.0.feed_forward.w1.weight")[0],
            adaln_dim=shape("adaln_proj.weight")[0],
            llm_features_dim=shape("llm_cond_norm.weight")[0],
        )
        return True


@dataclasses.dataclass
class TinyQwen3VLConfig(qwen3vl.Qwen3VL_8BConfig):
    """36 layers, real vocabulary, head size and rotary sections; everything else as small as it goes."""

    hidden_size: int = 32
    intermediate_size: int = 64
    num_attention_heads: int = 1
    num_key_value_heads: int = 1
    lm_head: bool = False


def register() -> None:
    """Make the tiny sizes known to ComfyUI; calling it twice does nothing more."""
    if TinyIdeogram4 not in comfy.supported_models.models:
        comfy.supported_models.models.insert(0, TinyIdeogram4)
    qwen3vl.QWEN3VL_CONFIGS["qwen3vl_8b"] = TinyQwen3VLConfig
    qwen3vl.QWEN3VL_VISION["qwen3vl_8b"] = TINY_VISION


class TinyExtension(ComfyExtension):
    async def on_load(self) -> None:
        register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return []


async def comfy_entrypoint() -> TinyExtension:
    return TinyExtension()
