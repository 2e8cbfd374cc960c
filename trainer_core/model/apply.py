"""Apply a LoRA to a ComfyUI model: merged into the weights, or added in the forward pass.

Merging re-quantises a quantised base, which loses most of the LoRA; adding is exact on every base. The sum is made by
forward hooks, which torch removes one by one: any number of LoRAs can be stacked in any order.

Shapes: R rank, I in, O out.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import comfy.sd
import torch
import torch.nn.functional as F
from comfy.patcher_extension import PatcherInjection
from torch import Tensor, nn

from ..lora_files import LoraWeights, comfy_state_dict, match_modules
from .host import ComfyModule
from .network import check_architecture


def apply_lora(
    patcher: Any, modules: Mapping[str, LoraWeights], *, strength: float, bypass: bool, name: str = "The LoRA"
) -> Any:
    """A clone of `patcher` with the LoRA at `strength`, added in the forward pass (`bypass`) or merged.

    `name` is what messages call it. Raises `WrongModel` and `LoraMismatch`.
    """
    match_modules(modules, linear_shapes(patcher), name=name)
    if strength == 0:
        return patcher.clone()
    if not bypass:
        merged, _ = comfy.sd.load_lora_for_models(patcher, None, comfy_state_dict(dict(modules)), strength, 0)
        return merged
    clone = patcher.clone()
    clone.set_injections(f"ideogram4_lora_{uuid.uuid4().hex}", [_forward_hooks(modules, strength)])
    return clone


def linear_shapes(patcher: Any) -> dict[str, tuple[int, int]]:
    """(O, I) of every linear layer of the connected model, by module path."""
    diffusion_model = check_architecture(patcher)
    return {
        path: (module.out_features, module.in_features)
        for path, module in diffusion_model.named_modules()
        if hasattr(module, "in_features")
    }


def is_quantized(patcher: Any) -> bool:
    """Whether any linear of the connected model is stored in a format that merging would round to."""
    modules = check_architecture(patcher).modules()
    return any(_is_quantized(module) for module in modules if hasattr(module, "in_features"))


def _is_quantized(linear: ComfyModule) -> bool:
    # Files with scales become ComfyUI's quantised tensors; plain fp8 is a dtype, which dynamic loading applies late.
    if getattr(linear, "quant_format", None) is not None:
        return True
    return (getattr(linear, "weight_comfy_model_dtype", None) or linear.weight.dtype).itemsize == 1


def _forward_hooks(modules: Mapping[str, LoraWeights], strength: float) -> PatcherInjection:
    # Clones share this injection, and each may be ejected or collected on its own: every patcher has its own hooks. No
    # weak references, of which torch's handles are made as well: a patcher ejects itself as the last thing it does, and
    # where it is part of a cycle, they have been cleared by then.
    hooked: dict[int, list[tuple[nn.Module, int]]] = {}

    def inject(patcher: Any) -> None:
        eject(patcher)
        layers = dict(patcher.model.diffusion_model.named_modules())
        device, dtype = patcher.load_device, patcher.model.get_dtype_inference()
        hooks = {path: _adding(weights, strength, device, dtype) for path, weights in modules.items()}
        hooked[id(patcher)] = [
            (layers[path], layers[path].register_forward_hook(hook).id) for path, hook in hooks.items()
        ]

    def eject(patcher: Any) -> None:
        for layer, hook in hooked.pop(id(patcher), ()):
            layer._forward_hooks.pop(hook, None)

    return PatcherInjection(inject=inject, eject=eject)


def _adding(weights: LoraWeights, strength: float, device: torch.device, dtype: torch.dtype) -> Any:
    down = weights.down.to(device, dtype)
    up = (weights.up.float() * (weights.scale * strength)).to(device, dtype)

    def add(_module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        x = args[0]
        # The layer may quantise its input itself; the LoRA reads it as it came.
        return out + F.linear(F.linear(x, down.to(x.dtype)), up.to(x.dtype)).to(out.dtype)

    return add
