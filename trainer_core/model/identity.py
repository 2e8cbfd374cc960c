"""Identity of loaded weights: a short hash that changes when the weights do.

Reads names, shapes, dtypes and a sample of the values of every tensor, so it costs milliseconds on a model of many
gigabytes. It tells two files apart; it is not a proof against somebody who sets out to forge a collision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

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


def _sample(tensor: Tensor) -> bytes:
    # The storage is read as bytes: quantised formats have dtypes that numpy does not know.
    flat = tensor.detach().contiguous().flatten()
    if flat.numel() == 0:
        return b""
    last = max(0, flat.numel() - _RUN_LENGTH)
    starts = [last * run // (_RUNS - 1) for run in range(_RUNS)]
    runs = torch.cat([flat[start : start + _RUN_LENGTH].view(torch.uint8) for start in starts])
    return runs.cpu().numpy().tobytes()
