"""Where an image is cut, and the cut itself. Captions move their boxes by the same `CropBox`."""

from __future__ import annotations

import dataclasses

from PIL import Image

from ..errors import ImageTooSmall


@dataclasses.dataclass(frozen=True)
class CropBox:
    """The part of an image that is kept, in pixels of that image; edges may lie between two pixels."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top


def crop_box(source_width: int, source_height: int, width: int, height: int) -> CropBox:
    """The largest centred part of the source with the aspect of `width` x `height`.

    One of its sides is the whole of the source's, so scaling it to the target covers the target exactly: there is no
    rounding that could leave a border. Raises `ImageTooSmall` where the target is larger than the source on a side.
    """
    if source_width < width or source_height < height:
        raise ImageTooSmall(
            f"An image of {source_width}x{source_height} pixels is too small for {width}x{height}: images are never "
            "enlarged. Choose a smaller resolution or a larger image."
        )
    if source_width * height >= source_height * width:
        kept_width, kept_height = width * source_height / height, float(source_height)
    else:
        kept_width, kept_height = float(source_width), height * source_width / width
    left, top = (source_width - kept_width) / 2, (source_height - kept_height) / 2
    if (kept_width, kept_height) == (width, height):  # not scaled: keep to whole pixels, so that they stay as they are
        left, top = float(int(left)), float(int(top))
    right, bottom = min(left + kept_width, source_width), min(top + kept_height, source_height)
    return CropBox(left, top, right, bottom)


def fit_image(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scale to cover `width` x `height`, keeping the aspect, and crop to the centre; Lanczos, antialiased.

    Raises `ImageTooSmall` rather than enlarge.
    """
    box = crop_box(image.width, image.height, width, height)
    return image.resize((width, height), Image.Resampling.LANCZOS, box=(box.left, box.top, box.right, box.bottom))
