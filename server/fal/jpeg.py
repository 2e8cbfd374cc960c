"""A JPEG beside a PNG that ComfyUI has saved."""

from __future__ import annotations

import io
from typing import Any

from ...trainer_core.dataset import decode_image
from ...trainer_core.storage import replace_file
from ..api.files import FileMissing, made_file, path_of

QUALITY = 95
FULL_COLOUR = 0
"""Pillow's name for 4:4:4."""


def jpeg_of(png: dict[str, Any]) -> dict[str, Any]:
    """The JPEG of a PNG below the output folder, both as records keep files. Raises `UserError`."""
    try:
        path = path_of(png)
        image = decode_image(path.read_bytes(), png["filename"])
    except OSError as error:
        raise FileMissing(f"{png['filename']} is not in the output folder any more.") from error
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, subsampling=FULL_COLOUR)
    target = path.with_suffix(".jpeg")
    replace_file(target, [buffer.getvalue()])
    return made_file(png["subfolder"], target.name)
