"""The few places where the trainer reaches into ComfyUI's runtime.

Upstream rewrites these internals often, so they are touched here and nowhere else: casting a weight for use,
the training flag, loading and freeing, the interrupt and out-of-memory signals.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import comfy.model_management
import comfy.ops
import comfy.quant_ops
import torch

ComfyModule: TypeAlias = Any
"""A module of ComfyUI's, whose attributes no type checker can see."""


@contextmanager
def cast_weights(
    module: ComfyModule, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Yield `(weight, bias)` of a ComfyUI module on `device` in `dtype`, dequantised and patched.

    The tensors may live in a buffer that the next cast reuses: they are valid inside the block only and must never
    be kept, least of all for a backward pass.
    """
    weight, bias, stream = comfy.ops.cast_bias_weight(
        module, device=device, dtype=dtype, bias_dtype=dtype, offloadable=True
    )
    try:
        # Where the stored tensor already computes in `dtype`, ComfyUI hands it out quantised.
        yield weight.dequantize() if isinstance(weight, comfy.quant_ops.QuantizedTensor) else weight, bias
    finally:
        comfy.ops.uncast_bias_weight(module, weight, bias, stream)


@contextmanager
def training_mode(device: torch.device) -> Iterator[None]:
    """Make gradients possible inside a node and leave every process-wide switch as it was.

    Nodes run under `inference_mode`, ComfyUI's fused rotary kernel has no backward, and a matmul in bf16 or TF32
    collapses Ideogram 4's image positions (they start at 65536), so all four are set here and restored afterwards.
    """
    was_training = comfy.model_management.in_training
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device_type=device.type, enabled=False),
        _exact_fp32_matmul(),
    ):
        comfy.model_management.in_training = True
        try:
            yield
        finally:
            comfy.model_management.in_training = was_training


@contextmanager
def _exact_fp32_matmul() -> Iterator[None]:
    """Switch TF32 off. torch 2.9 renamed the switch, and refuses to mix its two names."""
    matmul = torch.backends.cuda.matmul
    name, exact = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    before = getattr(matmul, name)
    setattr(matmul, name, exact)
    try:
        yield
    finally:
        setattr(matmul, name, before)


def load_on_device(patcher: Any, memory_bytes: int) -> None:
    """Bring the model of a `ModelPatcher` to its device, leaving `memory_bytes` free beside it where possible."""
    comfy.model_management.load_models_gpu([patcher], memory_required=memory_bytes)


def unload(patcher: Any) -> None:
    """Move the model of a `ModelPatcher`, and its clones, off the device."""
    comfy.model_management.unload_model_and_clones(patcher)


def device_name(device: torch.device) -> str:
    """What the device is called, for the record of a run."""
    return comfy.model_management.get_torch_device_name(device)


def empty_cache() -> None:
    comfy.model_management.soft_empty_cache()


def raise_if_interrupted() -> None:
    """Raise ComfyUI's interrupt when the user pressed cancel. Raising clears the request."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def is_interrupt(error: BaseException) -> bool:
    """Whether this is ComfyUI's cancel, an Exception or a BaseException depending on its version."""
    return isinstance(error, comfy.model_management.InterruptProcessingException)


def is_out_of_main_memory(error: BaseException) -> bool:
    """Whether the CPU's memory ran out, for which torch has no exception of its own."""
    return isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def is_out_of_memory(error: BaseException) -> bool:
    return comfy.model_management.is_oom(error)
