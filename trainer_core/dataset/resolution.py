"""Which width and height a dataset is trained at."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from ..errors import ImageTooSmall, ResolutionRejected
from .messages import name_some

if TYPE_CHECKING:
    from .dataset import Dataset

PRESETS = {
    "square": (1024, 1024),
    "landscape": (1536, 1024),
    "portrait": (1024, 1536),
    "widescreen": (1920, 1088),
    "ultrawide": (2048, 768),
    "phone_wallpaper": (1024, 1792),
    "social_banner": (1584, 400),
}
"""Name: (width, height) in pixels."""

SIDE_MULTIPLE = 16
"""The VAE makes one latent of 8x8 pixels, and the network one token of 2x2 latents."""
MAX_WIDTH, MAX_HEIGHT, MAX_AREA = 2048, 1792, 2_088_960
"""Pixels; the limits of fal's trainer. The area is that of 1920x1088."""

_SIZE = re.compile(r"\s*([0-9]{1,5})\s*[xX\u00d7]\s*([0-9]{1,5})\s*")


@dataclasses.dataclass(frozen=True)
class Resolution:
    """The size that every image is fitted to, in pixels, and why."""

    width: int
    height: int
    reason: str


def resolve_resolution(dataset: Dataset, resolution: str, custom: str = "", *, min_side: int = 16) -> Resolution:
    """Turn `auto`, a preset's name, `custom` (with `custom` = "1280x768") or a bare "1280x768" into a size.

    `min_side` is the smallest side that the model accepts: 256 for Ideogram 4. Raises `ResolutionRejected`.
    """
    if resolution.strip().lower() == "auto":
        return _auto(dataset, min_side)
    return fixed_resolution(resolution, custom, min_side=min_side)


def check_resolution(resolution: str) -> None:
    """Raise `ResolutionRejected` for what no dataset can be trained at."""
    if resolution.strip().lower() != "auto":
        fixed_resolution(resolution)


def fixed_resolution(resolution: str, custom: str = "", *, min_side: int = 16) -> Resolution:
    """As `resolve_resolution`, for all but `auto`. Raises `ResolutionRejected`."""
    choice = resolution.strip().lower()
    if choice in PRESETS:
        return _checked(*PRESETS[choice], f"preset {choice}", min_side)
    if choice == "custom" and not custom.strip():
        raise ResolutionRejected('The resolution is "custom", but no size is given. Write one, such as 1280x768.')
    text = custom if choice == "custom" else resolution
    size = _SIZE.fullmatch(text)
    if size is None:
        choices = ", ".join(("auto", *PRESETS))
        raise ResolutionRejected(f"{text[:60]!r} is no resolution. Use {choices}, or WIDTHxHEIGHT such as 1280x768.")
    return _checked(int(size[1]), int(size[2]), "custom size", min_side)


def check_fit(dataset: Dataset, width: int, height: int) -> None:
    """Raises `ImageTooSmall` naming every image that would have to be enlarged, and what the whole set allows."""
    small = [item for item in dataset.items if item.width < width or item.height < height]
    if not small:
        return
    named = name_some([f"{item.name} ({item.width}x{item.height})" for item in small])
    count = "1 image is" if len(small) == 1 else f"{len(small)} images are"
    largest = _largest_size(dataset)
    remedy = f"The largest size that all images allow is {largest[0]}x{largest[1]}: choose it" if all(largest) else ""
    raise ImageTooSmall(
        f"{count} too small for {width}x{height}, and images are never enlarged: {named}. "
        f"{remedy + ', or remove or' if remedy else 'Remove or'} replace the small images."
    )


def _auto(dataset: Dataset, min_side: int) -> Resolution:
    narrowest = min(dataset.items, key=lambda item: item.width)
    lowest = min(dataset.items, key=lambda item: item.height)
    reason = (
        f"auto: the smallest width is {narrowest.width} ({narrowest.name}), the smallest height {lowest.height} "
        f"({lowest.name}), each rounded down to a multiple of {SIDE_MULTIPLE}"
    )
    return _checked(_round_down(narrowest.width), _round_down(lowest.height), reason, min_side)


def _checked(width: int, height: int, reason: str, min_side: int) -> Resolution:
    faults = []
    if width % SIDE_MULTIPLE or height % SIDE_MULTIPLE:
        near = "x".join(str(max(1, round(side / SIDE_MULTIPLE)) * SIDE_MULTIPLE) for side in (width, height))
        faults.append(f"both sides must be multiples of {SIDE_MULTIPLE} (nearest: {near})")
    if min(width, height) < min_side:
        faults.append(f"no side may be below {min_side}")
    if width > MAX_WIDTH:
        faults.append(f"the width may not exceed {MAX_WIDTH}")
    if height > MAX_HEIGHT:
        faults.append(f"the height may not exceed {MAX_HEIGHT}")
    if width * height > MAX_AREA:
        faults.append(f"the area may not exceed {MAX_AREA:,} pixels (as 1920x1088)")
    if faults:
        raise ResolutionRejected(
            f"{width}x{height} ({reason}) cannot be trained: {'; '.join(faults)}. "
            f"Choose a preset ({', '.join(PRESETS)}) or another custom size."
        )
    return Resolution(width, height, reason)


def _round_down(side: int) -> int:
    return side // SIDE_MULTIPLE * SIDE_MULTIPLE


def _largest_size(dataset: Dataset) -> tuple[int, int]:
    """The largest size within the limits that no image is too small for; where the area decides, the set's aspect."""
    width = min(MAX_WIDTH, *(item.width for item in dataset.items))
    height = min(MAX_HEIGHT, *(item.height for item in dataset.items))
    shrink = min(1.0, (MAX_AREA / (width * height)) ** 0.5)
    return _round_down(int(width * shrink)), _round_down(int(height * shrink))
