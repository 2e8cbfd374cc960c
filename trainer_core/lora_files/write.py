"""Save a LoRA as a safetensors file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import NonFinite, SaveFailed
from ..storage import place_new_file
from .adapter_header import HEADER_KEY
from .export import export_lora
from .tensor_file import tensor_bytes, tensor_header
from .weights import LoraWeights


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
    data = tensor_bytes(tensors)
    header = tensor_header(tensors, {**_checked(metadata), "modelspec.hash_sha256": f"0x{_sha256(data)}"})
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


def _sha256(data: Iterable[bytes | memoryview]) -> str:
    """Hash of the file's bytes after its header: the identity that ModelSpec asks for and model sites show."""
    digest = hashlib.sha256()
    for piece in data:
        digest.update(piece)
    return digest.hexdigest()
