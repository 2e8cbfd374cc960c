"""Encodings on disk, one small safetensors file per content hash.

A file appears under its name only when it is complete (written aside, then renamed), so two runs may share a folder
and a killed one leaves nothing that could be mistaken for an encoding. A file that does not open, or holds a NaN, is
encoded anew.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import SaveFailed, TrainingDataMismatch

_TENSOR = "encoding"
_RENEWAL = "renewal"
_LEFTOVER_AGE_S = 3600


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
        """The tensor on the CPU. Raises `TrainingDataMismatch` when it is gone or damaged, having made sure that the
        next run encodes it anew."""
        tensor, problem = None, "it holds NaN or infinite values"
        try:
            with safe_open(self._path(key), framework="pt") as file:
                tensor = file.get_tensor(_TENSOR)
        except (OSError, SafetensorError) as error:
            problem = str(error)
        if tensor is not None and tensor.isfinite().all():
            return tensor
        del tensor  # Windows deletes no file that is mapped into memory
        self._renew(key)
        raise TrainingDataMismatch(
            f"The cached encoding {self._path(key)} cannot be used ({problem}). Run again: it will be encoded anew."
        )

    def remove_leftovers(self) -> None:
        """Delete what a process that was killed while writing has left."""
        for path in self.folder.glob("??/.*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFTOVER_AGE_S:
                    path.unlink()

    @property
    def renewal(self) -> str:
        """Changes when the folder was deleted or something in it was found to be missing, so that whoever holds keys
        knows to encode again."""
        with contextlib.suppress(OSError):  # a folder that cannot be written to is told of when something is stored
            if not (self.folder / _RENEWAL).exists():
                self._mark_renewed()
            return (self.folder / _RENEWAL).read_text(encoding="ascii", errors="replace")
        return ""

    def _renew(self, key: str) -> None:
        with contextlib.suppress(OSError):  # a folder that cannot be written to is told of when it is encoded anew
            self._path(key).unlink(missing_ok=True)
            self._mark_renewed()

    def _mark_renewed(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / _RENEWAL).write_text(uuid.uuid4().hex, encoding="ascii")

    def store(self, key: str, tensor: Tensor) -> None:
        """Write a tensor under its key. Raises `SaveFailed` when the disk refuses."""
        path = self._path(key)
        aside = path.with_name(f".{key[:16]}.{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({_TENSOR: tensor.contiguous()}, aside)
            with open(aside, "r+b") as file:
                os.fsync(file.fileno())
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
