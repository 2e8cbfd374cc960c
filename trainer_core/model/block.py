"""A transformer block as ComfyUI's Ideogram 4 computes it, keeping little for its backward pass.

Norms, modulation, gates and the rotary embedding are cheap and their inputs are at hand, so nothing of them is kept:
they are computed again (`_Recomputed`). What stays, besides the inputs of layers with an adapter, is what attention
needs.

Shapes: B batch, L tokens, D model width, N heads, H head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .adapters import GatedFeedForward
from .frozen import FrozenNorm
from .host import ComfyModule

Attention = Callable[..., Tensor]


class TrainedBlock(nn.Module):
    """A block over the frozen parts of a ComfyUI block, under the same names."""

    def __init__(self, base: ComfyModule) -> None:
        super().__init__()
        self.attention = TrainedAttention(base.attention)
        self.feed_forward = GatedFeedForward(base.feed_forward)
        self.attention_norm1, self.attention_norm2 = base.attention_norm1, base.attention_norm2
        self.ffn_norm1, self.ffn_norm2 = base.ffn_norm1, base.ffn_norm2
        self.adaln_modulation = base.adaln_modulation

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None,
        freqs_cis: Tensor,
        adaln_input: Tensor,
        transformer_options: Mapping[str, Any],
    ) -> Tensor:
        """x (B, L, D) to (B, L, D). freqs_cis (1, L, 1, H/2, 2, 2), adaln_input (B, 1, its width)."""
        scale_msa, gate_msa, scale_mlp, gate_mlp = self.adaln_modulation(adaln_input).chunk(4, dim=-1)
        attended = self.attention(
            _recomputed(_modulated, x, 1.0 + scale_msa, *_norm(self.attention_norm1)),
            attn_mask,
            freqs_cis,
            transformer_options["optimized_attention_override"],
        )
        x = _recomputed(_gated_sum, x, attended, torch.tanh(gate_msa), *_norm(self.attention_norm2))
        fed = self.feed_forward(_recomputed(_modulated, x, 1.0 + scale_mlp, *_norm(self.ffn_norm1)))
        return _recomputed(_gated_sum, x, fed, torch.tanh(gate_mlp), *_norm(self.ffn_norm2))


class TrainedAttention(nn.Module):
    """Self-attention over all tokens."""

    def __init__(self, base: ComfyModule) -> None:
        super().__init__()
        self.num_heads: int = base.num_heads
        self.qkv, self.o = base.qkv, base.o
        self.norm_q, self.norm_k = base.norm_q, base.norm_k

    def forward(self, x: Tensor, attn_mask: Tensor | None, freqs_cis: Tensor, attention: Attention) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(dim=2)
        q = _recomputed(_normed_and_rotated, q, freqs_cis, *_norm(self.norm_q))
        k = _recomputed(_normed_and_rotated, k, freqs_cis, *_norm(self.norm_k))
        heads_first = (tensor.transpose(1, 2) for tensor in (q, k, v))
        return self.o(attention(None, *heads_first, self.num_heads, mask=attn_mask))


# ---- cheap parts ---------------------------------------------------------------------------------------------


def _norm(norm: FrozenNorm) -> tuple[Tensor | None, float]:
    return norm.weight, norm.eps


def _modulated(x: Tensor, scale: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, eps) * scale


def _gated_sum(x: Tensor, branch: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x + gate * F.rms_norm(branch, weight.shape, weight, eps)


def _normed_and_rotated(x: Tensor, freqs_cis: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of each head, then the rotary embedding in its own precision: (B, L, N, H)."""
    first, second = F.rms_norm(x, weight.shape, weight, eps).to(freqs_cis.dtype).chunk(2, dim=-1)
    halves = [freqs_cis[..., row, 0] * first + freqs_cis[..., row, 1] * second for row in (0, 1)]
    return torch.cat(halves, dim=-1).to(x.dtype)


def _recomputed(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """`function(*arguments)`, of which autograd keeps the arguments alone."""
    return _Recomputed.apply(function, *arguments)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*(a for a in arguments if isinstance(a, Tensor)))
        ctx.others = [None if isinstance(a, Tensor) else a for a in arguments]
        return function(*arguments)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        needed = ctx.needs_input_grad[1:]
        arguments = [
            next(saved).detach().requires_grad_(need) if other is None else other
            for other, need in zip(ctx.others, needed, strict=True)
        ]
        with torch.enable_grad():
            out = ctx.function(*arguments)
        wanted = [argument for argument, need in zip(arguments, needed, strict=True) if need]
        found = iter(torch.autograd.grad(out, wanted, grad))
        return None, *(next(found) if need else None for need in needed)
