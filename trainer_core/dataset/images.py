"""An image file's bytes as pixels for training. Hostile input is dealt with in `headers.py` and `decode.py`."""

from __future__ import annotations

from PIL import Image

from ..errors import ImageUnreadable
from .colour import to_srgb_on_white
from .decode import decode
from .headers import read_header
from .refusal import Refused

MAX_IMAGE_BYTES = 256 * 2**20
"""Files are read whole to be decoded; 100 megapixels in a 16-bit PNG of photographic content stay below this."""

_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each Exif orientation."""


def decode_image(data: bytes, name: str) -> Image.Image:
    """The image in mode RGB (sRGB, on white where it is transparent), turned as its Exif data says.

    Only the first frame of an animation. Raises `ImageUnreadable`, which names the file.
    """
    try:
        header = read_header(iter((data,)))
        decoded = decode(data, header)
    except Refused as refusal:
        raise ImageUnreadable(f"The image {name} {refusal}.") from None
    rgb = to_srgb_on_white(decoded.image, decoded.profile)
    return rgb.transpose(_TURN[header.orientation]) if header.orientation in _TURN else rgb
