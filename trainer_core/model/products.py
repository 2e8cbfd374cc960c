"""Forward and backward of adapted layers, written out so that nothing is kept that can be had again.

A layer computes `x @ W.T + b + scale * (x @ A.T) @ B.T` with W frozen (`FrozenLinear`). A (R, I) and B (O, R) are fp32
masters; the products run in x's dtype, and gradients are added up in fp32 because they are returned in the masters'.
The thin product is added into the wide one's output, so that no second tensor of that size exists.

Shapes: B batch, L tokens, I in, O out, F feed-forward width, R rank.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .frozen import FrozenLinear


class Adapted(NamedTuple):
    """A layer and its adapter."""

    layer: FrozenLinear
    down: Tensor
    """A, (R, I)."""
    up: Tensor
    """B, (O, R)."""
    scale: float

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output (..., O), and what `backward` needs of the adapter: `scale * x @ A.T`, (tokens, R)."""
        hidden = (_rows(x) @ self.down.to(x.dtype).T) * self.scale
        out = self.layer.product(x)
        # A view, and an error where there can be none: what is added to a copy would be lost.
        out.view(-1, out.shape[-1]).addmm_(hidden, self.up.to(x.dtype).T)
        return out, hidden

    def adapter_gradients(self, grad: Tensor, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of `hidden` before its scale, of A, and of B."""
        grad_hidden = (_rows(grad) @ self.up.to(grad.dtype)) * self.scale
        grad_down = grad_hidden.T @ _rows(x)
        grad_up = _rows(grad).T @ hidden
        return grad_hidden, grad_down.to(self.down.dtype), grad_up.to(self.up.dtype)

    def input_gradient(self, grad: Tensor, grad_hidden: Tensor) -> Tensor:
        """Gradient of x: (..., I)."""
        grad_x = self.layer.input_gradient(grad)
        grad_x.view(-1, grad_x.shape[-1]).addmm_(grad_hidden, self.down.to(grad.dtype))
        return grad_x


def _rows(x: Tensor) -> Tensor:
    """(..., N) as (tokens, N)."""
    return x.reshape(-1, x.shape[-1])


class AdaptedLinearFunction(torch.autograd.Function):
    """One adapted layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, up: Tensor, scale: float, layer: FrozenLinear) -> Tensor:
        out, hidden = Adapted(layer, down, up, scale).forward(x)
        ctx.save_for_backward(x, hidden, down, up)
        ctx.scale, ctx.layer = scale, layer
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        x, hidden, down, up = ctx.saved_tensors
        adapted = Adapted(ctx.layer, down, up, ctx.scale)
        grad_hidden, grad_down, grad_up = adapted.adapter_gradients(grad, x, hidden)
        grad_x = adapted.input_gradient(grad, grad_hidden) if ctx.needs_input_grad[0] else None
        return grad_x, grad_down, grad_up, None, None


class GatedFeedForwardFunction(torch.autograd.Function):
    """`w2(silu(w1(x)) * w3(x))` of three adapted layers.

    Keeps x and the outputs of w1 and w3; the gate and its product, two tensors of the feed-forward's width, are
    computed again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *arguments: Any) -> Tensor:
        w1, w2, w3 = layers = _three(arguments)
        gate, hidden1 = w1.forward(x)
        value, hidden3 = w3.forward(x)
        out, hidden2 = w2.forward(F.silu(gate).mul_(value))
        ctx.save_for_backward(x, gate, value, hidden1, hidden2, hidden3, *(t for w in layers for t in (w.down, w.up)))
        ctx.constants = [(w.layer, w.scale) for w in layers]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, value, hidden1, hidden2, hidden3, *masters = ctx.saved_tensors
        w1, w2, w3 = (
            Adapted(layer, masters[2 * i], masters[2 * i + 1], scale) for i, (layer, scale) in enumerate(ctx.constants)
        )
        activated = F.silu(gate)
        product = activated * value
        grad_hidden, down2, up2 = w2.adapter_gradients(grad, product, hidden2)
        del product
        grad_product = w2.input_gradient(grad, grad_hidden)
        grad_value = activated.mul_(grad_product)
        grad_hidden3, down3, up3 = w3.adapter_gradients(grad_value, x, hidden3)
        grad_x = w3.input_gradient(grad_value, grad_hidden3) if ctx.needs_input_grad[0] else None
        del activated, grad_value
        grad_gate = torch.ops.aten.silu_backward(grad_product.mul_(value), gate)
        del grad_product
        grad_hidden1, down1, up1 = w1.adapter_gradients(grad_gate, x, hidden1)
        if grad_x is not None:
            grad_x.add_(w1.input_gradient(grad_gate, grad_hidden1))
        return grad_x, down1, up1, None, None, down2, up2, None, None, down3, up3, None, None


def _three(arguments: tuple[Any, ...]) -> tuple[Adapted, Adapted, Adapted]:
    """w1, w2, w3 from (down, up, scale, layer) of each."""
    first, second, third = (
        Adapted(layer, down, up, scale)
        for down, up, scale, layer in (arguments[start : start + 4] for start in (0, 4, 8))
    )
    return first, second, third
