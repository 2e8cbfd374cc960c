"""Copies between main memory and the device that run beside the computation: streams, pinned memory, and numbers on
their way back.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from . import host
from .host import Stream

log = logging.getLogger(__name__)


def copy_stream(device: torch.device, purpose: str) -> Stream:
    """The stream for one kind of copies beside the computation; always the same, so that they keep their order.

    None off a GPU, and where ComfyUI keeps to one.
    """
    if device.type != "cuda" or not host.copies_beside_work():
        return None
    return _copy_stream(device, purpose)


@functools.lru_cache(maxsize=8)
def _copy_stream(device: torch.device, _purpose: str) -> Stream:
    stream: Stream = torch.cuda.Stream(device)
    stream.as_context = torch.cuda.stream
    return stream


def on_stream(stream: Stream) -> AbstractContextManager[Any]:
    """Do what follows on a side stream."""
    return contextlib.nullcontext() if stream is None else stream.as_context(stream)


def join(device: torch.device, stream: Stream) -> None:
    """Let the computation wait for what the side stream was told to do."""
    if stream is not None:
        _computation(device).wait_stream(stream)


def await_computation(device: torch.device, stream: Stream) -> None:
    """Let the side stream wait for the computation, before it reuses memory that this reads."""
    if stream is not None:
        stream.wait_stream(_computation(device))


def _computation(device: torch.device) -> Stream:
    # Of this device by name: ComfyUI's `current_stream` answers for the current device, whatever it is asked for.
    return torch.cuda.current_stream(device)


def pinned(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Main memory for `count` values that `device` can copy to and from beside its work; memory that it has to wait
    for where no more can be pinned.
    """
    if device.type == "cuda":
        try:
            return torch.empty(count, dtype=dtype, pin_memory=True)
        except RuntimeError:
            # CUDA says that it is out of memory, and means the CPU's: of which often only a part may be pinned.
            _warn()
            host.discard_device_error()
    return torch.empty(count, dtype=dtype)


@functools.cache
def _warn() -> None:
    log.warning("No more main memory can be pinned, so copies to and from the GPU are slower.")


class Reading:
    """Numbers on their way from the device."""

    def __init__(self, tensor: Tensor, arrived: Any) -> None:
        self._tensor, self._arrived = tensor, arrived

    def numbers(self) -> list[float]:
        """Wait for them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensor.tolist()


def begin_to_read(tensor: Tensor) -> Reading:
    """Send a small tensor to main memory without waiting for it."""
    if tensor.device.type != "cuda":
        return Reading(tensor, None)
    arrived = torch.cuda.Event()
    on_its_way = pinned(tensor.numel(), tensor.dtype, tensor.device).copy_(tensor, non_blocking=True)
    arrived.record(_computation(tensor.device))
    return Reading(on_its_way, arrived)
