"""A dataset: checked images with their captions, read from a zip or a folder when they are needed.

No pixels are held and no file stays open; 10,000 images take a few megabytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import Literal, Protocol

import numpy as np

from ..errors import DatasetUnreadable, ImageUnreadable
from . import json_caption
from .crop import crop_box, fit_image
from .images import MAX_IMAGE_BYTES, decode_image
from .listing import Skipped, StoredFile

CaptionSource = Literal["file", "default", "forced", "corrected", "missing"]
"""From its text file; the default for want of one; the default for all; corrected in ComfyUI; nowhere, and empty."""


class Container(Protocol):
    """What a zip and a folder have in common."""

    @property
    def label(self) -> str: ...

    @property
    def files(self) -> tuple[StoredFile, ...]: ...

    def chunks(self, name: str) -> Generator[bytes, None, None]:
        """The file's contents in pieces of at most 64 KiB, checked on the way. Raises `DatasetUnreadable`."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One image and its caption."""

    name: str
    """Path inside the dataset, with `/` between its parts."""
    caption: str
    caption_source: CaptionSource
    width: int
    """Pixels, the Exif orientation applied."""
    height: int
    original_caption: str = ""
    """Of a corrected caption: what the text file says, "" where there is none."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Checked images and captions. Plain data without open files; any number of threads may read from it."""

    name: str
    items: tuple[Item, ...]
    """In natural order of their names; at least one."""
    skipped: tuple[Skipped, ...]
    warnings: tuple[str, ...]
    default_caption: str
    """As given, "" for none."""
    container: Container = dataclasses.field(repr=False)

    def read(self, item: Item) -> bytes:
        """The image file's bytes, at most `MAX_IMAGE_BYTES`, checked again as they are read.

        Raises `DatasetUnreadable` where the zip or folder is damaged or has changed.
        """
        return read_whole(self.container, item.name, MAX_IMAGE_BYTES)


def load_pixels(dataset: Dataset, item: Item, width: int, height: int) -> np.ndarray:
    """Read one image, decode it and fit it: uint8 (height, width, 3), sRGB.

    Raises as `Dataset.read` and `fit_pixels`.
    """
    return fit_pixels(dataset.read(item), item, width, height)


def fit_pixels(data: bytes, item: Item, width: int, height: int) -> np.ndarray:
    """Decode the bytes of an image file and fit them: uint8 (height, width, 3), sRGB.

    Raises `ImageUnreadable`, also where it is no longer of the size that `item` had, and as `fit_image`.
    """
    image = decode_image(data, item.name)
    if image.size != (item.width, item.height):
        raise ImageUnreadable(f"The image {item.name} has changed since the dataset was opened. Open it again.")
    return np.array(fit_image(image, width, height))


def caption_for_crop(item: Item, width: int, height: int, *, move_boxes: bool = True) -> str:
    """The caption of the image as `load_pixels` fits it: boxes of a JSON caption are moved and clipped.

    Any other text, and every text with `move_boxes` off ("as is"), is returned untouched. What happens to elements
    outside the crop is told in `json_caption.move_boxes`. Raises `ImageTooSmall`.
    """
    if not move_boxes:
        return item.caption
    crop = crop_box(item.width, item.height, width, height)
    return json_caption.move_boxes(item.caption, item.width, item.height, crop).text


def read_whole(container: Container, name: str, max_bytes: int) -> bytes:
    """All bytes of one file. Raises `DatasetUnreadable`, at once where there are more than `max_bytes`."""
    data = bytearray()
    for chunk in container.chunks(name):
        data += chunk
        if len(data) > max_bytes:
            raise DatasetUnreadable(f"{container.label}: the file {name} has more than {max_bytes:,} bytes. Shrink it.")
    return bytes(data)
