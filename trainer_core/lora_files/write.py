"""Save a LoRA as a safetensors file.

The file is written here, not by the safetensors library: the library orders the metadata at random, and the same run
shall give the same bytes. Written piece by piece, the file also needs no second copy in memory.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import NonFinite, SaveFailed
from .adapter_header import HEADER_KEY
from .export import export_lora
from .files import place_new_file
from .weights import LoraWeights

_DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def save_lora(
    modules: Mapping[str, LoraWeights],
    *,
    folder: Path,
    stem: str,
    layout: str,
    metadata: Mapping[str, str],
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Write `modules` to a new file `stem.safetensors` in `folder` (`stem_2` ... if taken) and return its path.

    layout: comfy, fal or diffusers. metadata: text for the file's header (see `metadata.build_metadata`); the hash
    of the tensors is added. The file appears whole or not at all and no other file is touched.
    Raises `NonFinite` naming the layer, or `SaveFailed`.
    """
    tensors = export_lora(modules, layout, dtype=dtype)
    _check_finite(tensors, dtype)
    data = [_bytes(tensors[key]) for key in _file_order(tensors)]
    header = _header({**_checked(metadata), "modelspec.hash_sha256": f"0x{_sha256(data)}"}, tensors)
    return place_new_file(folder, stem, ".safetensors", [header, *data])


def _check_finite(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise NonFinite(
                f"The LoRA was not saved: {key} holds NaN or infinite values in {dtype}. Its training diverged; "
                "use an earlier checkpoint, or train again with a lower learning rate."
            )


def _checked(metadata: Mapping[str, str]) -> Mapping[str, str]:
    wrong = [key for key, value in metadata.items() if not isinstance(key, str) or not isinstance(value, str)]
    if wrong:
        raise SaveFailed(f"The metadata entries {wrong} are not text, which safetensors files require.")
    if HEADER_KEY in metadata:
        raise SaveFailed(
            f"A {HEADER_KEY} entry must not be saved: diffusers would obey it, ComfyUI would not, and the two would "
            "apply the LoRA at different strengths."
        )
    return metadata


def _header(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> bytes:
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
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)  # the tensors start at a multiple of 8 bytes
    return struct.pack("<Q", len(text)) + text


def _file_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Wide types first, so that every tensor is aligned; then by name, so that equal LoRAs give equal bytes."""
    return sorted(tensors, key=lambda key: (-tensors[key].itemsize, key))


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _sha256(data: Iterable[memoryview]) -> str:
    """Hash of the file's bytes after its header: the identity that ModelSpec asks for and model sites show."""
    digest = hashlib.sha256()
    for piece in data:
        digest.update(piece)
    return digest.hexdigest()
