"""Encodings on disk, one small safetensors file per content hash.

A file appears under its name only when it is complete (written aside, then renamed), so two runs may share a folder
and a killed one leaves nothing that could be mistaken for an encoding. A file that does not open is encoded anew.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import SaveFailed, TrainingDataMismatch

_TENSOR = "encoding"


class EncodingCache:
    """Tensors by key under one folder. Keys are hex digests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, key: str) -> bool:
        try:
            with safe_open(self._path(key), framework="pt") as file:
                return list(file.keys()) == [_TENSOR]
        except (OSError, SafetensorError):
            return False

    def load(self, key: str) -> Tensor:
        """The tensor on the CPU. Raises `TrainingDataMismatch` when it is gone or damaged."""
        try:
            with safe_open(self._path(key), framework="pt") as file:
                return file.get_tensor(_TENSOR)
        except (OSError, SafetensorError) as error:
            raise TrainingDataMismatch(
                f"The cached encoding {self._path(key)} cannot be read ({error}). "
                "Change any input of the encode node, caption_boxes for example, and run again to encode it anew."
            ) from error

    def store(self, key: str, tensor: Tensor) -> None:
        """Write a tensor under its key. Raises `SaveFailed` when the disk refuses."""
        path = self._path(key)
        aside = path.with_name(f".{key[:16]}.{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({_TENSOR: tensor.contiguous()}, aside)
            os.replace(aside, path)
        except (OSError, SafetensorError) as error:
            aside.unlink(missing_ok=True)
            size = tensor.numel() * tensor.element_size()
            raise SaveFailed(
                f"Could not write {size:,} bytes to the encoding cache at {self.folder} ({error}). "
                "Free some disk space or make the folder writable, then run again; what is encoded already is kept."
            ) from error

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"
