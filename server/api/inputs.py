"""Files that came within a request, kept below ComfyUI's input folder: once each, where the nodes list them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import folder_paths

from ...trainer_core.storage import place_new_file

FOLDER = "fal"


def keep_input(data: bytes, suffix: str) -> str:
    """Put a file into the input folder and return its name there. Raises `SaveFailed`."""
    root = Path(folder_paths.get_input_directory())
    stem = hashlib.sha256(data).hexdigest()[:16]
    path = root / FOLDER / f"{stem}{suffix}"
    if not (path.is_file() and path.stat().st_size == len(data)):
        path = place_new_file(root / FOLDER, stem, suffix, [data])
    return path.relative_to(root).as_posix()
