"""The image that image to image begins with: fetched, judged, and kept in ComfyUI's input folder as a PNG.

Covered: everything that `remote` and the decoder of datasets cover; sizes of files and pictures; a disk that is full.
"""

from __future__ import annotations

import asyncio
import dataclasses
import io

from PIL import Image

from ...trainer_core.dataset import decode_image
from ...trainer_core.errors import ImageUnreadable
from ...trainer_core.model.sampling import MAX_SIDE
from ...trainer_core.remote import fetch
from ..api.inputs import keep_input
from ..api.own_files import own_file
from ..api.store import Store
from ..api.threads import outside

MAX_IMAGE_BYTES = 64 * 2**20
MAX_ADDRESS_LENGTH = MAX_IMAGE_BYTES * 4 // 3 + 1024
FETCH_TIMEOUT_S = 60.0
MAX_KEPT_SIDE = 2 * MAX_SIDE
"""A larger image is kept smaller: nothing of more than `MAX_SIDE` is made of it."""
_decoding = asyncio.Semaphore(1)  # a large image takes several times its size while it is decoded


@dataclasses.dataclass(frozen=True)
class SourceImage:
    name: str
    """In ComfyUI's input folder; "" for one that is not used."""
    width: int
    height: int
    """As it was sent."""


async def source_image(address: str, store: Store, *, is_used: bool = True) -> SourceImage:
    """The image behind an https address, a data URI or an address of ours. Raises `UserError`.

    One that is not used is judged all the same, and not kept.
    """
    data = await outside(_data_at, address.strip(), store)
    async with _decoding:
        return await asyncio.to_thread(_judged, data, is_used)


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


def _judged(data: bytes, is_used: bool) -> SourceImage:
    image = decode_image(data, "in image_url")
    width, height = image.size
    if not is_used:
        return SourceImage("", width, height)
    image.thumbnail((MAX_KEPT_SIDE, MAX_KEPT_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return SourceImage(keep_input(buffer.getvalue(), ".png"), width, height)
