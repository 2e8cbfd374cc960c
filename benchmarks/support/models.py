"""Ideogram 4 with random weights at the released sizes, in the formats of the released files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

BLOCK_LINEARS = ("attention.qkv", "attention.o", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
INT8 = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}
FORMATS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "fp8_scaled": ("TensorCoreFP8E4M3Layout", {"format": "float8_e4m3fn"}, {"scale": "recalculate"}),
    "nvfp4": ("TensorCoreNVFP4Layout", {"format": "nvfp4"}, {}),
    "int8_convrot": ("TensorWiseINT8Layout", INT8, {"per_channel": True, "convrot": True, "convrot_groupsize": 256}),
}


def write_random_model(path: Path, *, blocks: int, fmt: str, device: str = "cpu") -> None:
    """A file that UNETLoader opens: `blocks` of 34, fmt bf16, fp8_scaled, nvfp4 or int8_convrot."""
    import comfy.ops
    from comfy.ldm.ideogram4.model import Ideogram4Transformer2DModel
    from comfy.quant_ops import QuantizedTensor

    with torch.device("meta"):
        shapes = Ideogram4Transformer2DModel(num_layers=blocks, operations=comfy.ops.disable_weight_init).state_dict()
    generator = torch.Generator(device).manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for key, like in shapes.items():
        value = _random(key, like.shape, generator, device)
        layer = key.removesuffix(".weight")
        if fmt == "bf16" or not (layer.startswith("layers.") and layer.endswith(BLOCK_LINEARS)):
            tensors[key] = value.cpu()
            continue
        layout, conf, options = FORMATS[fmt]
        quantised = QuantizedTensor.from_float(value, layout, **options).state_dict(key)
        tensors.update({name: part.cpu() for name, part in quantised.items()})
        tensors[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(conf).encode()), dtype=torch.uint8)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)


def _random(key: str, shape: torch.Size, generator: torch.Generator, device: str) -> torch.Tensor:
    """Norms 1, biases 0, matrices N(0, 1/fan_in), bf16."""
    if len(shape) == 1:
        return torch.full(shape, 0.0 if key.endswith("bias") else 1.0, dtype=torch.bfloat16, device=device)
    value = torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(generator=generator)
    return value.mul_(1 / math.sqrt(math.prod(shape[1:])))
