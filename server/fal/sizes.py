"""How large a picture becomes: fal's names and numbers as sides that ComfyUI's nodes take."""

from __future__ import annotations

import math
from typing import Any, Literal

import pydantic

from ...trainer_core.errors import ImageTooSmall
from ...trainer_core.model.sampling import MAX_SIDE, MIN_SIDE, Preset

STEP = 16
"""A latent pixel."""
MIN_SCHEDULED_SIDE = 256
"""The smallest that ComfyUI's scheduler node takes."""

SizeName = Literal["square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"]
NAMED: dict[str, tuple[int, int]] = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
Size = tuple[int, int]
"""Width and height in pixels, multiples of `STEP` from `MIN_SIDE` to `MAX_SIDE`."""


class ImageSize(pydantic.BaseModel):
    """Sides in pixels. Each becomes the nearest multiple of 16; the answer says what was made."""

    width: int = pydantic.Field(512, ge=MIN_SIDE, le=MAX_SIDE)
    height: int = pydantic.Field(512, ge=MIN_SIDE, le=MAX_SIDE)


def size_of(wish: str | ImageSize) -> Size:
    """The size of a name of `NAMED`, or of numbers."""
    if isinstance(wish, ImageSize):
        return _rounded(wish.width), _rounded(wish.height)
    return NAMED[wish]


def size_like(width: int, height: int) -> Size:
    """The size of an image of any size: its own, or smaller in the same shape. Raises `ImageTooSmall`."""
    scale = min(1.0, MAX_SIDE / max(width, height))
    if min(width, height) * scale < MIN_SIDE:
        words = "that is too narrow" if scale < 1 else f"each side must have at least {MIN_SIDE}"
        raise ImageTooSmall(
            f"The image has {width}x{height} pixels; {words} to make a picture of its size. Send another one, or say "
            "in image_size what to make of it."
        )
    return _rounded(width * scale), _rounded(height * scale)


def _rounded(side: float) -> int:
    return math.floor(side / STEP + 0.5) * STEP


def schedule(preset: Preset, size: Size) -> dict[str, Any]:
    """The inputs of ComfyUI's Ideogram4Scheduler for a picture of that size.

    The noise levels depend on the number of pixels alone. For sides that are too small for the node, larger ones are
    given and `mu` makes up for them.
    """
    width, height = (max(MIN_SCHEDULED_SIDE, side) for side in size)
    mu = preset.mu + 0.5 * math.log(size[0] * size[1] / (width * height))
    return {"steps": preset.steps, "width": width, "height": height, "mu": mu, "std": preset.std}
