"""The cheap parts of a block: element by element, or a norm over the last dimension. They cost memory traffic alone.

A GPU runs each of their operations as a kernel of its own; `torch.compile` makes one of each function, which is why
they can be exchanged (`Elementwise`). Nothing of them is kept for the backward pass: their inputs are at hand, so they
are computed again (`recomputed`).

Shapes: B batch, L tokens, D model width, N heads, H head width, F feed-forward width.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import host

log = logging.getLogger(__name__)

Function = Callable[..., Tensor]


def modulated(x: Tensor, scale: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm, then a scale for each channel: x (B, L, D), scale (B, 1, D)."""
    return F.rms_norm(x, weight.shape, weight, eps) * scale


def gated_sum(x: Tensor, branch: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x` plus the gated RMSNorm of a branch: (B, L, D), gate (B, 1, D)."""
    return x + gate * F.rms_norm(branch, weight.shape, weight, eps)


def normed_and_rotated(x: Tensor, freqs_cis: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of each head, then the rotary embedding in its own precision: (B, L, N, H)."""
    first, second = F.rms_norm(x, weight.shape, weight, eps).to(freqs_cis.dtype).chunk(2, dim=-1)
    halves = [freqs_cis[..., row, 0] * first + freqs_cis[..., row, 1] * second for row in (0, 1)]
    return torch.cat(halves, dim=-1).to(x.dtype)


@dataclasses.dataclass
class Elementwise:
    """The functions as a network uses them."""

    modulated: Function = modulated
    gated_sum: Function = gated_sum
    normed_and_rotated: Function = normed_and_rotated


def compiled(
    on_failure: Callable[[str], None], *, width: int, head_width: int, device: torch.device, dtype: torch.dtype
) -> Elementwise:
    """The functions through `torch.compile`, tried forwards and backwards on a few tokens of D = `width`.

    Where that fails, `on_failure` is told why and the plain ones are returned; where it fails later, the plain ones
    are used from then on. It is called once, in the thread that called this: what fails in autograd's own, which a
    backward pass has on a GPU, is told when the function is next used.
    """
    failures: list[str] = []
    thread, told = threading.get_ident(), False

    def fail(error: Exception) -> None:
        # What ComfyUI and the run handle is no failure of the compiler.
        if host.is_interrupt(error) or host.is_out_of_memory(error):
            raise error
        failures.append(f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}")

    def tell() -> None:
        nonlocal told
        if failures and not told and threading.get_ident() == thread:
            told = True
            on_failure(failures[0])

    try:
        functions = Elementwise(*(_Compiled(f, fail, tell) for f in (modulated, gated_sum, normed_and_rotated)))
        for tokens in (8, 12):
            _try(functions, tokens, width, head_width, device, dtype)
    except Exception as error:
        # Boundary with a compiler that may be missing or broken.
        log.warning("torch.compile failed.", exc_info=True)
        fail(error)
    tell()
    return Elementwise() if failures else functions


def _try(do: Elementwise, tokens: int, width: int, head_width: int, device: torch.device, dtype: torch.dtype) -> None:
    def some(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.ones(shape, device=device, dtype=dtype)

    x, scale, weight = some(1, tokens, width).requires_grad_(), some(1, 1, width), some(width)
    heads = some(1, tokens, width // head_width, head_width).requires_grad_()
    table = some(1, tokens, 1, head_width // 2, 2, 2, dtype=torch.float32)
    with torch.enable_grad():
        for out in (
            recomputed(do.modulated, x, scale, weight, 1e-5),
            recomputed(do.gated_sum, x, x, scale, weight, 1e-5),
            recomputed(do.normed_and_rotated, heads, table, some(head_width), 1e-5),
        ):
            out.sum().backward()


class _Compiled:
    def __init__(self, plain: Function, fail: Callable[[Exception], None], tell: Callable[[], None]) -> None:
        self._plain, self._fail, self._tell = plain, fail, tell
        # Captions differ in length: one kernel for all.
        self._function: Function | None = torch.compile(plain, dynamic=True)

    def __call__(self, *arguments: Any) -> Tensor:
        if self._function is not None:
            try:
                return self._function(*arguments)
            except Exception as error:
                # Boundary with the compiler, which sees a shape for the first time.
                log.warning("torch.compile failed.", exc_info=True)
                self._fail(error)
                self._function = None
        self._tell()
        return self._plain(*arguments)


def recomputed(function: Function, *arguments: Any) -> Tensor:
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
