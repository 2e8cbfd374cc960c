"""A transformer block as ComfyUI's Ideogram 4 computes it, keeping little for its backward pass.

Norms, modulation, gates and the rotary embedding are computed again (`elementwise.py`). What stays, besides the inputs
of layers with an adapter, is what attention needs.

Shapes: B batch, L tokens, D model width, N heads, H head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import GatedFeedForward
from .elementwise import Elementwise, recomputed
from .frozen import FrozenNorm
from .host import ComfyModule

Attention = Callable[..., Tensor]


class TrainedBlock(nn.Module):
    """A block over the frozen parts of a ComfyUI block, under the same names."""

    def __init__(self, base: ComfyModule) -> None:
        super().__init__()
        self.elementwise = Elementwise()
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
        do, attention = self.elementwise, transformer_options["optimized_attention_override"]
        scaled = recomputed(do.modulated, x, 1.0 + scale_msa, *_norm(self.attention_norm1))
        attended = self.attention(scaled, attn_mask, freqs_cis, attention, do)
        x = recomputed(do.gated_sum, x, attended, torch.tanh(gate_msa), *_norm(self.attention_norm2))
        scaled = recomputed(do.modulated, x, 1.0 + scale_mlp, *_norm(self.ffn_norm1))
        return recomputed(do.gated_sum, x, self.feed_forward(scaled), torch.tanh(gate_mlp), *_norm(self.ffn_norm2))


class TrainedAttention(nn.Module):
    """Self-attention over all tokens."""

    def __init__(self, base: ComfyModule) -> None:
        super().__init__()
        self.num_heads: int = base.num_heads
        self.qkv, self.o = base.qkv, base.o
        self.norm_q, self.norm_k = base.norm_q, base.norm_k

    def forward(
        self, x: Tensor, attn_mask: Tensor | None, freqs_cis: Tensor, attention: Attention, do: Elementwise
    ) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(dim=2)
        q = recomputed(do.normed_and_rotated, q, freqs_cis, *_norm(self.norm_q))
        k = recomputed(do.normed_and_rotated, k, freqs_cis, *_norm(self.norm_k))
        heads_first = (tensor.transpose(1, 2) for tensor in (q, k, v))
        return self.o(attention(None, *heads_first, self.num_heads, mask=attn_mask))


def _norm(norm: FrozenNorm) -> tuple[Tensor | None, float]:
    return norm.weight, norm.eps
