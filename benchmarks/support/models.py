"""Ideogram 4 with random weights, in the formats of the released files: at their width or at a tiny one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

WIDTHS: dict[str, dict[str, int]] = {
    "real": {},  # ComfyUI's and diffusers' own defaults
    "tiny": {"num_attention_heads": 1, "intermediate_size": 512, "adaln_dim": 64, "llm_features_dim": 416},
}
BLOCK_LINEARS = ("attention.qkv", "attention.o", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
INT8 = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}
LAYOUTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "fp8_scaled": ("TensorCoreFP8E4M3Layout", {"format": "float8_e4m3fn"}, {"scale": "recalculate"}),
    "nvfp4": ("TensorCoreNVFP4Layout", {"format": "nvfp4"}, {}),
    "int8_convrot": ("TensorWiseINT8Layout", INT8, {"per_channel": True, "convrot": True, "convrot_groupsize": 256}),
}


def random_weights(blocks: int, fmt: str, width: str, device: str, *, shared: bool = False) -> dict[str, torch.Tensor]:
    """A state dict on `device`: norms 1, biases 0, matrices N(0, 1/fan_in).

    All blocks hold the same numbers, each in memory of its own unless `shared`.
    """
    import comfy.ops
    from comfy.ldm.ideogram4.model import Ideogram4Transformer2DModel

    with torch.device("meta"):
        shapes = Ideogram4Transformer2DModel(
            num_layers=1, operations=comfy.ops.disable_weight_init, **WIDTHS[width]
        ).state_dict()
    generator = torch.Generator(device).manual_seed(0)
    dtype = torch.float32 if fmt == "fp32" else torch.bfloat16
    weights: dict[str, torch.Tensor] = {}
    for key, like in shapes.items():
        stored = _stored(key, random_tensor(key, like.shape, dtype, generator), fmt)
        for name, part in stored.items():
            if not name.startswith("layers.0."):
                weights[name] = part
                continue
            for index in range(blocks):
                own = part if shared or not index else part.clone()
                weights[name.replace("layers.0.", f"layers.{index}.", 1)] = own
    return weights


def random_tensor(key: str, shape: torch.Size, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Norms 1, biases 0, matrices N(0, 1/fan_in), on the generator's device."""
    if len(shape) == 1:
        return torch.full(shape, 0.0 if key.endswith("bias") else 1.0, dtype=dtype, device=generator.device)
    value = torch.empty(shape, dtype=dtype, device=generator.device).normal_(generator=generator)
    return value.mul_(1 / math.sqrt(math.prod(shape[1:])))


def _stored(key: str, value: torch.Tensor, fmt: str) -> dict[str, torch.Tensor]:
    """A weight as the file of that format holds it: the linears of blocks quantised, everything else as it is."""
    from comfy.quant_ops import QuantizedTensor

    layer = key.removesuffix(".weight")
    if fmt not in LAYOUTS or not (layer.startswith("layers.") and layer.endswith(BLOCK_LINEARS)):
        return {key: value}
    layout, conf, options = LAYOUTS[fmt]
    stored = dict(QuantizedTensor.from_float(value, layout, **options).state_dict(key))
    stored[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(conf).encode()), dtype=torch.uint8)
    return stored


def write_model(path: Path, blocks: int, fmt: str, width: str) -> None:
    """A file that ComfyUI's Load Diffusion Model opens."""
    weights = random_weights(blocks, fmt, width, "cpu")
    save_file({name: weight.contiguous() for name, weight in weights.items()}, path)


def load_model(path: Path) -> Any:
    """The `ModelPatcher` of a file, as Load Diffusion Model makes it."""
    import comfy.sd

    with torch.inference_mode():
        return comfy.sd.load_diffusion_model(str(path))


def make_model(blocks: int, fmt: str, width: str, device: str, *, for_nodes: bool = True) -> Any:
    """The `ModelPatcher` that loading such a file would give, without a file: for sizes that fill a disk.

    `for_nodes` makes the kind of tensors that a loader node makes. ComfyUI's Train LoRA asks for a second model of the
    file, of the other kind; it gets this one, which nobody else uses.
    """
    import comfy.memory_management
    import comfy.sd

    # ComfyUI copies plain weights, so one block's are enough to copy from; quantised ones it takes as they are, and
    # all of them where it moves them itself.
    shared = fmt not in LAYOUTS and not comfy.memory_management.aimdo_enabled
    weights = random_weights(blocks, fmt, width, device, shared=shared)
    with torch.inference_mode(for_nodes):
        patcher = comfy.sd.load_diffusion_model_state_dict(weights, metadata={})
        # Where ComfyUI keeps a model that is not in use, whatever it decided for the time of loading.
        patcher.model.to(patcher.offload_device)
    patcher.cached_patcher_init = (lambda **_: patcher, ())
    return patcher
