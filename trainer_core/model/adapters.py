"""Adapters: which layers are trained, PEFT's injection of them, and their weights as plain tensors.

PEFT creates and names the adapters; the forward and backward are ours (`products.py`), because the base layer is a
ComfyUI module whose weight may be quantised and must not be kept.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn

from ..errors import WrongModel
from .frozen import FrozenLinear
from .host import ComfyModule
from .products import AdaptedLinearFunction, GatedFeedForwardFunction

ADAPTER = "default"
LINEARS = ("attention.qkv", "attention.o", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
MODULATION = "adaln_modulation"


class AdaptedLinear(PeftLinear):
    """PEFT's LoRA layer over a `FrozenLinear`; only the arithmetic is replaced."""

    def forward(self, x: Tensor) -> Tensor:
        return AdaptedLinearFunction.apply(x, *self.arguments())

    def arguments(self) -> tuple[Tensor, Tensor, float, FrozenLinear]:
        """What `products.py` computes with: A, B, scale, base layer."""
        layer: Any = self
        return layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight, self.scaling[ADAPTER], layer.base_layer


class GatedFeedForward(nn.Module):
    """The feed-forward of a block over the same three layers, which keeps two wide tensors fewer for its backward."""

    def __init__(self, base: ComfyModule) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = base.w1, base.w2, base.w3

    def forward(self, x: Tensor) -> Tensor:
        layers = (self.w1, self.w2, self.w3)
        if all(isinstance(layer, AdaptedLinear) for layer in layers):
            return GatedFeedForwardFunction.apply(x, *(part for layer in layers for part in layer.arguments()))
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


@dataclasses.dataclass(frozen=True)
class Adapters:
    """The trainable part of a network: one PEFT layer per module path, in a fixed order."""

    layers: Mapping[str, AdaptedLinear]
    rank: int

    @property
    def scale(self) -> float:
        """Factor on `up @ down`, the same for every layer."""
        return next(iter(self.layers.values())).scaling[ADAPTER]

    def parameters(self) -> dict[str, nn.Parameter]:
        """fp32 masters by name: `<module>.down` (R, I) and `<module>.up` (O, R)."""
        named: dict[str, Any] = {}
        for path, layer in self.layers.items():
            named[f"{path}.down"] = layer.lora_A[ADAPTER].weight
            named[f"{path}.up"] = layer.lora_B[ADAPTER].weight
        return named


def target_paths(network: ComfyModule, *, train_modulation: bool) -> list[str]:
    """Module paths to adapt, block by block: 5 per block, 6 with the modulation.

    Raises `WrongModel` when a path is missing or is not a linear layer.
    """
    names = LINEARS + ((MODULATION,) if train_modulation else ())
    paths = [f"layers.{index}.{name}" for index in range(len(network.layers)) for name in names]
    modules = dict(network.named_modules())
    missing = [path for path in paths if not isinstance(modules.get(path), FrozenLinear)]
    if missing or not paths:
        raise WrongModel(
            f"The connected model has no trainable layer at {', '.join(missing[:5]) or 'layers.*'}. "
            "Connect an Ideogram 4 diffusion model loaded by ComfyUI's own Load Diffusion Model node."
        )
    return paths


def inject_adapters(
    network: ComfyModule,
    *,
    rank: int,
    rank_stabilized: bool,
    train_modulation: bool,
    generator_for: Callable[[str], torch.Generator],
    device: torch.device,
) -> Adapters:
    """Put a LoRA adapter on every target of a frozen network.

    `down` is drawn from U(-1/sqrt(I), 1/sqrt(I)) (PEFT's default) by `generator_for(path)` on the CPU, so that it
    does not depend on the device or on any global random state; `up` is zero. Raises `WrongModel` when the trainable
    set that results is not exactly the adapters.
    """
    paths = target_paths(network, train_modulation=train_modulation)
    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=paths, use_rslora=rank_stabilized, lora_dropout=0.0, bias="none"
    )
    config._register_custom_module({FrozenLinear: AdaptedLinear})
    with warnings.catch_warnings():
        # PEFT does not know the layer type and says so, though it has been told what to do with it.
        warnings.filterwarnings("ignore", message="Unsupported layer type")
        # On the meta device PEFT's own initialisation draws no random numbers and allocates nothing.
        inject_adapter_in_model(config, network, adapter_name=ADAPTER, low_cpu_mem_usage=True)

    placed = {path: module for path, module in network.named_modules() if isinstance(module, AdaptedLinear)}
    if set(placed) != set(paths):
        wrong = sorted(set(paths) ^ set(placed))
        raise WrongModel(f"Adapters could not be placed exactly where they belong: {', '.join(wrong[:5])}.")
    layers = {path: placed[path] for path in paths}
    for path, layer in layers.items():
        _initialise(layer, generator_for(path), device)

    trainable = {id(p) for p in network.parameters() if p.requires_grad}
    adapters = Adapters(layers, rank)
    if trainable != {id(p) for p in adapters.parameters().values()}:
        raise WrongModel("The trainable parameters are not exactly the adapters; the model cannot be trained safely.")
    return adapters


def _initialise(layer: AdaptedLinear, generator: torch.Generator, device: torch.device) -> None:
    rank = layer.r[ADAPTER]
    base: ComfyModule = layer.base_layer
    bound = 1.0 / math.sqrt(base.in_features)
    down = torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=generator)
    layer.lora_A[ADAPTER].weight = nn.Parameter(down.to(device))
    layer.lora_B[ADAPTER].weight = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
