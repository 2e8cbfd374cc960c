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
    # Files with scales become ComfyUI's quantised tensors; plain fp8 files are stored in that dtype without one.
    return getattr(linear, "quant_format", None) is not None or linear.weight.dtype.itemsize == 1


def _forward_hooks(modules: Mapping[str, LoraWeights], strength: float) -> PatcherInjection:
    handles: list[torch.utils.hooks.RemovableHandle] = []

    def inject(patcher: Any) -> None:
        layers = dict(patcher.model.diffusion_model.named_modules())
        for path, weights in modules.items():
            down = weights.down.to(patcher.load_device)
            up = (weights.up * (weights.scale * strength)).to(patcher.load_device)
            handles.append(layers[path].register_forward_hook(_adding(down, up)))

    def eject(_patcher: Any) -> None:
        while handles:
            handles.pop().remove()

    return PatcherInjection(inject=inject, eject=eject)


def _adding(down: Tensor, up: Tensor) -> Any:
    def add(_module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        x = args[0]
        # The layer may quantise its input itself; the LoRA reads it as it came.
        return out + F.linear(F.linear(x, down.to(x.dtype)), up.to(x.dtype)).to(out.dtype)

    return add
