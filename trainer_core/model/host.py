"""The few places where the trainer reaches into ComfyUI's runtime.

Upstream rewrites these internals often, so they are touched here and nowhere else: casting a weight for use,
the training flag, loading and freeing, the interrupt and out-of-memory signals. (Products of quantised tensors are in
`quantized.py`.)
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

import comfy.model_management
import comfy.ops
import comfy.quant_ops
import torch
from torch import Tensor

ComfyModule: TypeAlias = Any
"""A module of ComfyUI's, whose attributes no type checker can see."""
Stream: TypeAlias = Any
"""A stream of the device in the form that ComfyUI takes, or None: then copies run in line with the computation."""


_NO_ROOM = ("STATUS_ALLOC_FAILED", "DEVICE_ALLOCATION_FAILED")
"""Of cuBLAS, cuDNN and their like, most often while they make the handle of a stream."""


@dataclasses.dataclass(frozen=True, eq=False)
class FetchedWeight:
    """Weight and bias of a ComfyUI module that were brought to the device ahead of their use, as they are stored."""

    weight: Tensor
    bias: Tensor | None
    weight_function: list[Any]
    bias_function: list[Any]


def is_elsewhere(module: ComfyModule, device: torch.device) -> bool:
    """Whether the weight has to be fetched before it is used on `device`.

    Weights under ComfyUI's dynamic VRAM are not: it moves them by itself.
    """
    return module.weight.device != device and not hasattr(module, "_v")


def fetch_weight(module: ComfyModule, device: torch.device, stream: Stream) -> FetchedWeight:
    """Begin to copy a module's weight to `device` on a side stream; wait for it with `join`."""
    non_blocking = comfy.model_management.device_supports_non_blocking(device)

    def copied(tensor: Tensor) -> Tensor:
        if isinstance(tensor, comfy.quant_ops.QuantizedTensor):
            # Part by part: as a whole, its scales would be copied twice, and Python wait for the first of the two.
            params = tensor.params
            parts = {name: copied(getattr(params, name)) for name in params._tensor_fields()}
            return type(tensor)(copied(tensor._qdata), tensor._layout_cls, dataclasses.replace(params, **parts))
        return comfy.model_management.cast_to(tensor, None, device, non_blocking=non_blocking, copy=True, stream=stream)

    bias = None if module.bias is None else copied(module.bias)
    return FetchedWeight(copied(module.weight), bias, module.weight_function, module.bias_function)


@contextmanager
def cast_weights(
    module: ComfyModule, device: torch.device, dtype: torch.dtype, fetched: FetchedWeight | None = None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield `(weight, bias)` of a ComfyUI module on `device` in `dtype`, dequantised and patched.

    The tensors may live in a buffer that the next cast reuses: they are valid inside the block only and must never
    be kept, least of all for a backward pass. `fetched` is used in place of the module's own where it is given.
    """
    source = fetched or module
    weight, bias, stream = comfy.ops.cast_bias_weight(
        source, device=device, dtype=dtype, bias_dtype=dtype, offloadable=True
    )
    try:
        # Where the stored tensor already computes in `dtype`, ComfyUI hands it out quantised.
        yield weight.dequantize() if isinstance(weight, comfy.quant_ops.QuantizedTensor) else weight, bias
    finally:
        comfy.ops.uncast_bias_weight(source, weight, bias, stream)


@contextmanager
def training_mode(device: torch.device) -> Iterator[None]:
    """Make gradients possible inside a node and leave every process-wide switch as it was.

    Nodes run under `inference_mode`, ComfyUI's fused rotary kernel has no backward, and a matmul in bf16 or TF32
    collapses Ideogram 4's image positions (they start at 65536), so all four are set here and restored afterwards; and
    the current device, by which ComfyUI and its kernels find the stream that they belong to.
    """
    was_training = comfy.model_management.in_training
    with (
        on_device(device),
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


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Make a GPU the current one. ComfyUI orders its copies by the current one's stream, wherever they go."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


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
    # On whichever device: left to itself, ComfyUI looks at the current one alone.
    comfy.model_management.unload_model_and_clones(patcher, all_devices=True)


def is_partly_loaded(patcher: Any) -> bool:
    """Whether ComfyUI keeps a part of the model's weights in main memory by itself; not under dynamic VRAM."""
    return not patcher.is_dynamic() and patcher.model.model_lowvram


@contextmanager
def put_aside(patcher: Any, modules: Sequence[ComfyModule]) -> Iterator[None]:
    """Take modules that training does not use off the device for its length.

    Under dynamic VRAM they never came there.
    """
    device = patcher.load_device
    moved = [m for m in modules if device.type != "cpu" and not patcher.is_dynamic() and m.weight.device == device]
    for module in moved:
        module.to(patcher.offload_device)
    try:
        yield
    finally:
        # Nothing to bring back to where ComfyUI has moved the rest of the model away in between.
        if moved and patcher.loaded_size() > 0:
            try:
                for module in moved:
                    module.to(device)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                unload(patcher)


def copies_beside_work() -> bool:
    """Whether ComfyUI lets copies run beside the computation: on some GPUs, but for --disable-async-offload."""
    return bool(comfy.model_management.NUM_STREAMS)


def discard_device_error() -> None:
    """Take back the error that a failed call has left on a GPU, where the next kernel would raise it again."""
    comfy.model_management.discard_cuda_async_error()


def device_name(device: torch.device) -> str:
    """What the device is called, for the record of a run."""
    return comfy.model_management.get_torch_device_name(device)


def usable_memory(device: torch.device) -> int:
    """Bytes of the device that a run can have: what is free, and what ComfyUI's own models would give up for it."""
    management = comfy.model_management
    loaded = [m for m in management.current_loaded_models if m.device == device and m.model is not None]
    held = sum(m.model_loaded_memory() for m in loaded)
    return int(management.get_free_memory(device) + held - management.extra_reserved_memory())


def total_memory(device: torch.device) -> int:
    """Memory of the device, used or not."""
    return comfy.model_management.get_total_memory(device)


def stored_bytes(module: ComfyModule) -> int:
    """Bytes of a module's weights in the format they are loaded in."""
    return comfy.model_management.module_size(module)


def empty_cache() -> None:
    comfy.model_management.soft_empty_cache()


def raise_if_interrupted() -> None:
    """Raise ComfyUI's interrupt when the user pressed cancel. Raising clears the request."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def interrupt() -> None:
    """Cancel what is running, as the user's button does."""
    comfy.model_management.interrupt_current_processing()


def is_interrupt(error: BaseException) -> bool:
    """Whether this is ComfyUI's cancel, an Exception or a BaseException depending on its version."""
    return isinstance(error, comfy.model_management.InterruptProcessingException)


def is_out_of_main_memory(error: BaseException) -> bool:
    """Whether the CPU's memory ran out, for which torch has no exception of its own."""
    return isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device's memory ran out. Libraries that find no room for their own have errors of their own."""
    if comfy.model_management.is_oom(error):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_ROOM)


@contextmanager
def stored_weights(
    module: ComfyModule, device: torch.device, dtype: torch.dtype, fetched: FetchedWeight | None = None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Like `cast_weights`, but with a quantised weight left as it is stored, for products in that format.

    A weight that a patch has to be merged into comes dequantised, in `dtype`, as it does when ComfyUI samples.
    """
    source = fetched or module
    weight, bias, stream = comfy.ops.cast_bias_weight(
        source,
        device=device,
        dtype=source.weight.dtype,
        bias_dtype=dtype,
        offloadable=True,
        compute_dtype=dtype,
        want_requant=True,
    )
    try:
        yield weight if isinstance(weight, comfy.quant_ops.QuantizedTensor) else weight.to(dtype), bias
    finally:
        comfy.ops.uncast_bias_weight(source, weight, bias, stream)
