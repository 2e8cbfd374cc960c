"""Frozen layers: run a ComfyUI module's weight forward and backward without ever keeping it.

`frozen_copy` builds a second module tree over the *same* weights. The tree that ComfyUI owns is not changed in any
way, so there is nothing to restore after a run, a cancel or a crash; and because each layer casts its weight anew
whenever it is needed, the base may be bf16, fp8, nvfp4 or int8, resident or offloaded, with or without patches.

Shapes: B batch, L tokens, I in, O out.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import host
from .host import ComfyModule

Product: TypeAlias = Callable[[Tensor, host.FetchedWeight | None], Tensor]
"""A product with a layer's weight, or with what was fetched of it."""


class FrozenLinear(nn.Module):
    """A ComfyUI linear whose weight gets no gradient. `base` is held, not owned: it is not in the module tree."""

    def __init__(self, base: ComfyModule) -> None:
        super().__init__()
        self.in_features: int = base.in_features
        self.out_features: int = base.out_features
        # A bare attribute would register `base` as a child, and `.to()` or `state_dict()` would then reach its weights.
        self._base = (base,)
        self.fetched: host.FetchedWeight | None = None
        """The weight on the device, where it was brought there ahead of its use."""
        self._smoothing: Tensor | None = None
        self.quantized_product: Product | None = None
        self.quantized_input_gradient: Product | None = None
        """Used in place of the exact products where they are set; see `quantized.py`."""

    @property
    def base(self) -> ComfyModule:
        return self._base[0]

    @property
    def weight(self) -> Tensor:
        """The stored weight, in whatever format; PEFT asks for its device."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        return _FrozenLinearFunction.apply(x, self)

    def product(self, x: Tensor) -> Tensor:
        """`x @ W.T + b`, outside of autograd: (..., I) to (..., O)."""
        x = self.smoothed(x)
        if self.quantized_product is not None:
            return self.quantized_product(x, self.fetched)
        with host.cast_weights(self.base, x.device, x.dtype, self.fetched) as (weight, bias):
            return F.linear(x, weight, bias)

    def input_gradient(self, grad: Tensor) -> Tensor:
        """Gradient of the input from that of the output: (..., O) to (..., I)."""
        if self.quantized_input_gradient is not None:
            return self.smoothed(self.quantized_input_gradient(grad, self.fetched))
        with host.cast_weights(self.base, grad.device, grad.dtype, self.fetched) as (weight, _):
            return self.smoothed(grad @ weight)

    def smoothed(self, x: Tensor) -> Tensor:
        """The input as the stored weight expects it: some quantised files divide a per-channel scale out of it."""
        scale = getattr(self.base, "pre_quant_scale", None)
        if scale is None:
            return x
        # Copied once: the module's own may be in main memory, and fetching it waits for the device.
        if self._smoothing is None or (self._smoothing.device, self._smoothing.dtype) != (x.device, x.dtype):
            self._smoothing = scale.detach().to(device=x.device, dtype=x.dtype)
        return x * self._smoothing


class _FrozenLinearFunction(torch.autograd.Function):
    """`x @ W.T + b`; the backward casts W again instead of saving it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:
        return (ctx.layer.input_gradient(grad) if ctx.needs_input_grad[0] else None), None


class FrozenNorm(nn.Module):
    """RMSNorm or LayerNorm over a small private copy of the weight, which autograd may keep."""

    def __init__(self, base: ComfyModule, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.normalized_shape, self.eps = base.normalized_shape, base.eps
        self.is_rms = isinstance(base, nn.RMSNorm)
        self.weight, self.bias = _private_copy(base, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_rms:
            return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class FrozenEmbedding(nn.Module):
    """An embedding over a private copy of its table."""

    def __init__(self, base: ComfyModule, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        with host.cast_weights(base, device, dtype) as (weight, _):
            self.weight = _own(weight)

    def forward(self, index: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
        return F.embedding(index, self.weight).to(out_dtype or self.weight.dtype)


def frozen_copy(module: ComfyModule, device: torch.device, dtype: torch.dtype) -> ComfyModule:
    """A module tree of the same classes and names over the same linear weights, usable under autograd.

    Containers are shallow copies; linears, norms and embeddings are replaced by their frozen forms. Raises
    `TypeError` for a container that holds parameters of its own, which this cannot represent.
    """
    if hasattr(module, "in_features"):
        return FrozenLinear(module)
    if isinstance(module, nn.RMSNorm | nn.LayerNorm):
        return FrozenNorm(module, device, dtype)
    if isinstance(module, nn.Embedding):
        return FrozenEmbedding(module, device, dtype)
    if module._parameters or module._buffers:
        raise TypeError(f"cannot freeze {type(module).__name__}: it holds parameters of its own")
    twin = copy.copy(module)
    # Hooks belong to ComfyUI's module, or to whoever put them there.
    twin._forward_hooks, twin._forward_pre_hooks = OrderedDict(), OrderedDict()
    twin._modules = {
        name: None if child is None else frozen_copy(child, device, dtype) for name, child in module._modules.items()
    }
    return twin


def _private_copy(
    base: ComfyModule, device: torch.device, dtype: torch.dtype
) -> tuple[nn.Parameter | None, nn.Parameter | None]:
    if base.weight is None:
        return None, None
    with host.cast_weights(base, device, dtype) as (weight, bias):
        return _own(weight), None if bias is None else _own(bias)


def _own(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)
