"""The image that image to image begins with: fetched, judged, and kept in ComfyUI's input folder as a PNG.

Covered: everything that `remote` and the decoder of datasets cover; sizes of files and pictures; a disk that is full.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import io
from pathlib import Path

import folder_paths
from PIL import Image

from ...trainer_core.dataset import decode_image
from ...trainer_core.errors import ImageUnreadable
from ...trainer_core.model.sampling import MAX_SIDE
from ...trainer_core.remote import fetch
from ...trainer_core.storage import place_new_file
from ..api.own_files import own_file
from ..api.store import Store

MAX_IMAGE_BYTES = 64 * 2**20
MAX_ADDRESS_LENGTH = MAX_IMAGE_BYTES * 4 // 3 + 1024
FETCH_TIMEOUT_S = 60.0
MAX_KEPT_SIDE = 2 * MAX_SIDE
"""A larger image is kept smaller: nothing of more than `MAX_SIDE` is made of it."""
FOLDER = "fal"
"""Of such images, in ComfyUI's input folder."""
_decoding = asyncio.Semaphore(1)  # a large image takes several times its size while it is decoded


@dataclasses.dataclass(frozen=True)
class SourceImage:
    name: str
    """In ComfyUI's input folder."""
    width: int
    height: int
    """As it was sent."""


async def source_image(address: str, store: Store) -> SourceImage:
    """The image behind an https address, a data URI or an address of ours. Raises `UserError`."""
    data = await asyncio.to_thread(_data_at, address.strip(), store)
    async with _decoding:
        return await asyncio.to_thread(_keep, data)


def _data_at(address: str, store: Store) -> bytes:
    own = own_file(address, store)
    if own is not None:
        if own.stat().st_size > MAX_IMAGE_BYTES:
            raise ImageUnreadable(f"{own.name} has more than {MAX_IMAGE_BYTES:,} bytes. Use an image.")
        return own.read_bytes()
    fetched = fetch(address, max_bytes=MAX_IMAGE_BYTES, timeout_s=FETCH_TIMEOUT_S, what="image", suffix=".image")
    if isinstance(fetched, bytes):
        return fetched
    try:
        return fetched.read_bytes()
    finally:
        fetched.unlink()


def _keep(data: bytes) -> SourceImage:
    image = decode_image(data, "in image_url")
    width, height = image.size
    image.thumbnail((MAX_KEPT_SIDE, MAX_KEPT_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    png = buffer.getvalue()
    root = Path(folder_paths.get_input_directory())
    stem = hashlib.sha256(png).hexdigest()[:16]
    path = root / FOLDER / f"{stem}.png"
    if not (path.is_file() and path.stat().st_size == len(png)):
        path = place_new_file(root / FOLDER, stem, ".png", [png])
    return SourceImage(path.relative_to(root).as_posix(), width, height)
