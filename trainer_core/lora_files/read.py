"""Read a LoRA file that a stranger made.

Covered: only safetensors is opened (pickles are recognised and refused); the header's size, its JSON, its names,
shapes, dtypes and byte ranges are judged before a tensor is built, the values' finiteness before one is returned; the
tensors are copies, so that the file may be replaced or deleted afterwards. Not covered: where the path points (the
caller keeps it inside its folder), and a file that changes while it is read.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import safetensors
import torch

from ..errors import LoraUnreadable
from .keys import TensorInfo, plan_pairs
from .parse import ParsedLora, parse_lora

MAX_HEADER_BYTES = 16 * 2**20
"""Far above any real LoRA header (about 100 kB), far below what would strain a parser."""
MAX_KEY_CHARACTERS = 500

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
}
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_DOWNLOAD_AGAIN = "Download or save it again."


def read_lora(path: Path) -> ParsedLora:
    """The LoRA in the safetensors file at `path`, in any layout that `parse_lora` knows, on the CPU.

    Raises `LoraUnreadable` or `LoraMismatch` with the file's name.
    """
    try:
        tensors, metadata = read_header(path)
        plan_pairs(tensors, path.name)
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            state_dict = {key: file.get_tensor(key).clone() for key in tensors}
    except OSError as error:
        raise LoraUnreadable(
            f"{path.name} cannot be read: {error.strerror or error}. Check that the file exists and is readable."
        ) from error
    except safetensors.SafetensorError as error:
        raise LoraUnreadable(f"{path.name} is not a valid safetensors file ({error}). {_DOWNLOAD_AGAIN}") from error
    return parse_lora(state_dict, metadata, name=path.name)


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Names, shapes and dtypes of the tensors in a safetensors file, and its `__metadata__`.

    Raises `LoraUnreadable` for a header that is broken, hostile or contradicts the file, and OSError.
    """
    if path.suffix.lower() != ".safetensors":
        raise LoraUnreadable(f"{path.name} is not a .safetensors file. Only safetensors LoRA files are read.")
    with open(path, "rb") as file:
        start = file.read(8)
        if start.startswith(_PICKLE_STARTS):
            raise LoraUnreadable(
                f"{path.name} is a pickled PyTorch file under another name. Pickles can run code when they are opened, "
                "so it was not; ask its author for a safetensors file."
            )
        file_bytes = path.stat().st_size
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else file_bytes
        if size > file_bytes - 8:
            raise LoraUnreadable(
                f"{path.name} is cut off or is not a safetensors file ({file_bytes} bytes). {_DOWNLOAD_AGAIN}"
            )
        if size > MAX_HEADER_BYTES:
            raise LoraUnreadable(
                f"{path.name} has a header of {size} bytes; a LoRA's is below {MAX_HEADER_BYTES}. "
                "It is broken or was made to do harm: do not use it."
            )
        header = _parse_json(file.read(size), path.name)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise LoraUnreadable(f"{path.name}: its __metadata__ is not text. {_DOWNLOAD_AGAIN}")
    data_bytes = file_bytes - 8 - size
    return {key: _tensor_info(key, entry, data_bytes, path.name) for key, entry in header.items()}, metadata


def _parse_json(text: bytes, name: str) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_refuse_repeats)
    except (ValueError, RecursionError) as error:
        raise LoraUnreadable(f"{name} has a broken safetensors header ({error}). {_DOWNLOAD_AGAIN}") from error
    if not isinstance(header, dict):
        raise LoraUnreadable(f"{name} has a broken safetensors header (no table). {_DOWNLOAD_AGAIN}")
    return header


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if len(key) > MAX_KEY_CHARACTERS or not key.isprintable():
            raise ValueError(f"the key {key[:40]!r} is longer than {MAX_KEY_CHARACTERS} characters or not text")
        if key in table:
            raise ValueError(f"the key {key} occurs twice")
        table[key] = value
    return table


def _tensor_info(key: str, entry: Any, data_bytes: int, name: str) -> TensorInfo:
    """One header entry, checked. Bytes are counted here only for dtypes that a LoRA may have."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        sound = all(type(number) is int and number >= 0 for number in (*shape, begin, end)) and len(shape) <= 8
        sound = sound and isinstance(dtype, str) and begin <= end <= data_bytes
    except (TypeError, KeyError, ValueError):
        sound = False
    if sound and dtype in _DTYPES:
        sound = math.prod(shape) * _DTYPES[dtype].itemsize == end - begin
    if not sound:
        raise LoraUnreadable(
            f"{name} is cut off or damaged: its header contradicts the file at {key}. {_DOWNLOAD_AGAIN}"
        )
    return TensorInfo(tuple(shape), _DTYPES.get(dtype, dtype))
