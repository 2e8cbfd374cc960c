"""The canonical updates in the keys that a loader expects.

Every export states alpha = rank, at one rank for all layers, so that loaders which honour, ignore or misread alpha all
apply the strength that was trained. `diffusers` files carry no alpha keys (diffusers refuses them; missing means rank).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..errors import SaveFailed
from .layouts import EXPORT_PREFIXES, OUTER_LAYERS, QKV, SPLIT_OUT, SPLIT_QKV, path_order
from .weights import LoraWeights, pad_rank, split_qkv, unit_scale
from .wording import some_of

EXPORT_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def comfy_state_dict(modules: Mapping[str, LoraWeights]) -> dict[str, Tensor]:
    """`modules` as a LORA_MODEL: ComfyUI's keys, values and dtypes as they are, every alpha stated."""
    return dict(_named_tensors(modules, "comfy"))


def export_lora(
    modules: Mapping[str, LoraWeights], layout: str, *, dtype: torch.dtype = torch.bfloat16
) -> dict[str, Tensor]:
    """`modules` as the contents of a file: `layout` is comfy, fal or diffusers; contiguous tensors on the CPU.

    The update is unchanged but for the rounding to `dtype` (bf16, fp16 or fp32). Raises `SaveFailed` for layers that
    not every loader accepts, and for what the layout cannot hold.
    """
    if layout not in EXPORT_PREFIXES or dtype not in EXPORT_DTYPES:
        raise SaveFailed(
            f"A LoRA cannot be saved as {layout} in {dtype}. Formats: {', '.join(EXPORT_PREFIXES)}; "
            f"types: {', '.join(map(str, EXPORT_DTYPES))}."
        )
    _check_exportable(modules, layout)
    rank = max(weights.rank for weights in modules.values())
    ordered = sorted(modules, key=path_order)
    uniform = {path: pad_rank(unit_scale(modules[path]), rank) for path in ordered}
    return {
        key: tensor if key.endswith(".alpha") else tensor.detach().to("cpu", dtype, copy=True).contiguous()
        for key, tensor in _named_tensors(uniform, layout)
    }


def _named_tensors(modules: Mapping[str, LoraWeights], layout: str) -> Iterator[tuple[str, Tensor]]:
    prefix = EXPORT_PREFIXES[layout]
    for path, weights in modules.items():
        for layer, part in _split(path, weights) if layout == "diffusers" else [(path, weights)]:
            yield f"{prefix}{layer}.lora_A.weight", part.down
            yield f"{prefix}{layer}.lora_B.weight", part.up
            if layout != "diffusers":
                yield f"{prefix}{layer}.alpha", torch.tensor(part.alpha, dtype=torch.float32)


def _split(path: str, weights: LoraWeights) -> list[tuple[str, LoraWeights]]:
    """A layer under diffusers' names: the fused attention becomes three layers."""
    if path.endswith(f".{QKV}"):
        block = path.removesuffix(QKV)
        return [(block + layer, part) for layer, part in zip(SPLIT_QKV, split_qkv(weights), strict=True)]
    if path.endswith(".attention.o"):
        return [(path.removesuffix("attention.o") + SPLIT_OUT, weights)]
    return [(path, weights)]


def _check_exportable(modules: Mapping[str, LoraWeights], layout: str) -> None:
    if not modules:
        raise SaveFailed("There is nothing to save: the LoRA has no layers. Train or load one first.")
    outer = [path for path in modules if path in OUTER_LAYERS]
    if outer:
        raise SaveFailed(
            f"The LoRA adapts layers outside the blocks ({some_of(outer)}), with which diffusers refuses the whole "
            "file. It was not saved; use it as it is with the loader node."
        )
    if layout == "fal" and not any(path.endswith(f".{QKV}") for path in modules):
        raise SaveFailed(
            "The fal format needs at least one attention.qkv layer, or its readers do not recognise it. "
            "Save as comfy or diffusers."
        )
    uneven = [path for path, weights in modules.items() if path.endswith(f".{QKV}") and weights.shape[0] % 3]
    if uneven:
        raise SaveFailed(f"{some_of(uneven)} cannot be cut into q, k and v: its size is no multiple of 3.")
