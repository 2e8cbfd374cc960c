"""The stack of transformer blocks, run so that it fits: which blocks are kept and which are computed again, where the
inputs of the latter wait, and when a block's weights are fetched.

One autograd function spans the whole stack. So the order of everything is written down in one place, forwards and
backwards, and what the next block needs can be fetched while the present one is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import copies, host
from .frozen import FrozenLinear

Block = Callable[[Tensor], Tensor]


class BlockStack(nn.Module):
    """All blocks of a network in the place of its `layers`.

    The last `kept_blocks` keep their activations. Of the others only the input is kept, in main memory with
    `offload_inputs`, and the block is computed again in the backward pass. Every choice gives the same numbers.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], *, device: torch.device, kept_blocks: int, offload_inputs: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.first_kept = len(blocks) - kept_blocks
        self.weights = BlockWeights(blocks, device)
        self.inputs: DeviceInputs | HostInputs = HostInputs(device) if offload_inputs else DeviceInputs()
        # The first block's input needs no gradient; this makes autograd call the backward all the same.
        self._anchor = torch.zeros((), device=device, requires_grad=True)

    def forward(
        self, h: Tensor, attn_mask: Tensor | None, freqs_cis: Tensor, adaln_input: Tensor, **options: Any
    ) -> Tensor:
        """As ComfyUI's network calls each of its blocks: h (B, L, D) to (B, L, D)."""

        def bound(block: nn.Module) -> Block:
            return lambda x: block(x, attn_mask, freqs_cis, adaln_input, **options)

        blocks = [bound(block) for block in self.blocks]
        if torch.is_grad_enabled():
            return _StackFunction.apply(h, self._anchor, self, blocks)
        for index, block in enumerate(blocks):
            with self.weights.brought(index, then=index + 1):
                h = block(h)
        return h


class _StackFunction(torch.autograd.Function):
    """h through all blocks. Gradients of adapters are added to their `.grad`; that of h is returned."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, _anchor: Tensor, stack: BlockStack, blocks: list[Block]) -> Tensor:
        ctx.stack, ctx.blocks, ctx.kept = stack, blocks, []
        ctx.needs_input = h.requires_grad
        for index, block in enumerate(blocks):
            host.raise_if_interrupted()
            with stack.weights.brought(index, then=index + 1):
                if index < stack.first_kept:
                    stack.inputs.put(index, h)
                    h = block(h)
                else:
                    x, out = _with_graph(block, h, needs_input=index > 0 or ctx.needs_input)
                    ctx.kept.append((x, out))
                    h = out.detach()
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        stack, blocks = ctx.stack, ctx.blocks
        for index in reversed(range(len(blocks))):
            host.raise_if_interrupted()
            with stack.weights.brought(index, then=index - 1):
                if index >= stack.first_kept:
                    x, out = ctx.kept.pop()
                else:
                    h = stack.inputs.take(index, then=index - 1)
                    x, out = _with_graph(blocks[index], h, needs_input=index > 0 or ctx.needs_input)
                    del h
                torch.autograd.backward(out, grad)
                grad = x.grad
                del x, out
        return grad, None, None, None


def _with_graph(block: Block, h: Tensor, *, needs_input: bool) -> tuple[Tensor, Tensor]:
    """A block's input as a leaf, and its output with what the backward needs."""
    with torch.enable_grad():
        x = h.detach().requires_grad_(needs_input)
        return x, block(x)


class DeviceInputs:
    """Inputs of blocks, where they are."""

    def __init__(self) -> None:
        self._held: dict[int, Tensor] = {}

    def put(self, index: int, h: Tensor) -> None:
        self._held[index] = h

    def take(self, index: int, then: int) -> Tensor:
        """The input of a block; `then` is the one that is asked for next."""
        del then
        return self._held.pop(index)


class HostInputs:
    """Inputs of blocks in main memory, copied both ways beside the computation."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[int, Tensor] = {}
        """Flat, and kept from step to step: pinned memory is slow to get."""
        self._held: dict[int, Tensor] = {}
        self._leaving: tuple[Tensor, host.Stream] | None = None
        """The last one that was put, while it may still be read."""
        self._coming: dict[int, tuple[Tensor, host.Stream]] = {}

    def put(self, index: int, h: Tensor) -> None:
        self._let_go()
        buffer = self._buffers.get(index)
        if buffer is None or buffer.numel() < h.numel():
            buffer = self._buffers[index] = copies.pinned(h.numel(), h.dtype, self._device)
        buffer = self._held[index] = buffer[: h.numel()].view(h.shape)
        stream = copies.copy_stream(self._device, "inputs")
        copies.await_computation(self._device, stream)
        with copies.on_stream(stream):
            buffer.copy_(h, non_blocking=True)
        self._leaving = h, stream

    def take(self, index: int, then: int) -> Tensor:
        """The input of a block, back on the device; `then` is the one that is asked for next."""
        self._let_go()
        self._fetch(index)
        h, stream = self._coming.pop(index)
        copies.join(self._device, stream)
        if then >= 0:
            self._fetch(then)
        return h

    def _let_go(self) -> None:
        # Its memory is the computation's and may be given out again at once, so the computation waits for the copy. By
        # then a block's work lies between. To leave it to the allocator (`record_stream`) would keep each input until
        # Python finds it copied, and Python is far ahead.
        if self._leaving is not None:
            _, stream = self._leaving
            copies.join(self._device, stream)
            self._leaving = None

    def _fetch(self, index: int) -> None:
        if index in self._coming:
            return
        stream = copies.copy_stream(self._device, "inputs")
        # Room for the copy is taken from the computation's own memory, so what was there before must be done with.
        h = torch.empty_like(self._held[index], device=self._device)
        copies.await_computation(self._device, stream)
        with copies.on_stream(stream):
            h.copy_(self._held[index], non_blocking=True)
        self._coming[index] = h, stream


class BlockWeights:
    """Brings those weights of a block to the device that are not there, one block ahead, and lets go of them after it.

    They are frozen, so nothing travels back. Never more than two blocks' are there.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        self._device = device
        self._layers = [[m for m in block.modules() if isinstance(m, FrozenLinear)] for block in blocks]
        self._there: dict[int, host.Stream] = {}

    @contextmanager
    def brought(self, index: int, then: int) -> Iterator[None]:
        """Have block `index` ready and drop all others; begin with block `then` when the work inside is handed over.

        Not sooner, because to begin may take as long as the copies: where main memory is not pinned, Python waits for
        them. The memory that they are made in is free before the work inside, so they need not wait for that.
        """
        for old in [other for other in self._there if other != index]:
            self._release(old)
        self._fetch(index)
        copies.join(self._device, self._there[index])
        yield
        if 0 <= then < len(self._layers):
            self._fetch(then)

    def release(self) -> None:
        """Hold nothing of any block, as before the first one."""
        for index in list(self._there):
            self._release(index)

    def _release(self, index: int) -> None:
        copies.await_computation(self._device, self._there.pop(index))
        for layer in self._layers[index]:
            layer.fetched = None

    def _fetch(self, index: int) -> None:
        if index in self._there:
            return
        away = [layer for layer in self._layers[index] if host.is_elsewhere(layer.base, self._device)]
        stream = copies.copy_stream(self._device, "weights") if away else None
        for layer in away:
            layer.fetched = host.fetch_weight(layer.base, self._device, stream)
        self._there[index] = stream
