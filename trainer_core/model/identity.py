"""Identity of loaded weights: a short hash that changes when the weights do.

Reads names, shapes, dtypes and a sample of the values of every tensor, so it costs milliseconds on a model of many
gigabytes. It tells two files apart; it is not a proof against somebody who sets out to forge a collision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

_RUNS, _RUN_LENGTH = 4, 16
"""Runs of neighbouring values read of each tensor, evenly spread: few pages of a file that is mapped into memory."""


def weights_identity(tensors: Mapping[str, Tensor]) -> str:
    """Hex digest over a state dict, independent of its order and of the device it is on."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(_sample(tensor))
    return digest.hexdigest()


def patches_identity(patches: Mapping[str, Iterable[Any]]) -> str:
    """Hex digest over a `ModelPatcher`'s patches: keys, strengths, kinds, and a sample of every tensor in them."""
    digest = hashlib.sha256()
    for key in sorted(patches, key=str):
        digest.update(f"{key}\n".encode())
        for part in patches[key]:
            _update(digest, part)
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"{tuple(value.shape)} {value.dtype}\n".encode() + _sample(value))
    elif isinstance(value, list | tuple):
        for part in value:
            _update(digest, part)
    elif hasattr(value, "weights"):  # ComfyUI's adapter objects
        digest.update(type(value).__qualname__.encode())
        _update(digest, value.weights)
    else:
        digest.update((repr(value) if isinstance(value, str | int | float | None) else type(value).__name__).encode())


def _sample(tensor: Tensor) -> bytes:
    # The storage is read as bytes: quantised formats have dtypes that numpy does not know.
    flat = tensor.detach().contiguous().flatten()
    if flat.numel() == 0:
        return b""
    last = max(0, flat.numel() - _RUN_LENGTH)
    starts = [last * run // (_RUNS - 1) for run in range(_RUNS)]
    runs = torch.cat([flat[start : start + _RUN_LENGTH].view(torch.uint8) for start in starts])
    return runs.cpu().numpy().tobytes()
