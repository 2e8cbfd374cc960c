"""The bytes of a safetensors file.

Made here, not by the safetensors library: the library orders the metadata at random, and the same run shall give the
same bytes. Made piece by piece, the file also needs no second copy in memory.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import torch
from torch import Tensor

_DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def tensor_file(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """A whole file in pieces: contiguous CPU tensors of fp32, fp16 or bf16, and text for the header."""
    return [tensor_header(tensors, metadata), *tensor_bytes(tensors)]


def tensor_header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Everything before the first tensor."""
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    begin = 0
    for key in _file_order(tensors):
        tensor = tensors[key]
        end = begin + tensor.nbytes
        entries[key] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")
    text += b" " * (-len(text) % 8)  # the tensors start at a multiple of 8 bytes
    return struct.pack("<Q", len(text)) + text


def tensor_bytes(tensors: Mapping[str, Tensor]) -> list[bytes | memoryview]:
    """Everything after the header, sharing memory with the tensors."""
    return [tensors[key].reshape(-1).view(torch.uint8).numpy().data for key in _file_order(tensors)]


def _file_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Wide types first, so that every tensor is aligned; then by name, so that equal LoRAs give equal bytes."""
    return sorted(tensors, key=lambda key: (-tensors[key].itemsize, key))
