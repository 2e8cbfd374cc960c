"""Any mode that Pillow decodes to, as sRGB on white.

Covered: a broken, oversized or unsuitable colour profile, which counts as none; pixels without a profile count as sRGB.
Not covered: flaws inside LittleCMS, which reads the profile; gamma and chromaticity chunks of a PNG, which few programs
honour; high dynamic range.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

from .decode import MAX_PROFILE_BYTES


def to_srgb_on_white(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert a decoded image to mode RGB; what is transparent becomes white."""
    colour, alpha = _split_alpha(image)
    rgb = _through_profile(colour, profile) or colour.convert("RGB")
    if alpha is None:
        return rgb
    white = Image.new("RGB", rgb.size, "white")
    white.paste(rgb, mask=alpha)
    return white


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """(opaque part in mode RGB, L or CMYK; alpha in mode L or None)."""
    if image.mode.startswith("I"):
        return _split_16_bit(image)
    if image.mode == "LA":
        return image.getchannel("L"), image.getchannel("A")
    if image.mode in ("RGBA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")
    if image.mode in ("RGB", "L", "CMYK"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _split_16_bit(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """16-bit grey. Pillow's own conversion clips in some versions, so the levels are mapped here."""
    levels = np.asarray(image).astype(np.uint16)
    to_8_bit = ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8)
    grey = Image.fromarray(to_8_bit[levels])
    if "transparency" not in image.info:
        return grey, None
    visible = np.where(levels == image.info["transparency"], 0, 255)
    return grey, Image.fromarray(visible.astype(np.uint8))


def _through_profile(image: Image.Image, profile: bytes | None) -> Image.Image | None:
    """`image` converted from its profile to sRGB, or None where the profile cannot be used."""
    if profile is None or len(profile) > MAX_PROFILE_BYTES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode == "L" and source.profile.xcolor_space.strip() == "RGB":  # grey in a colour space is common
            image = image.convert("RGB")
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):  # also a profile for another kind of pixels
        return None
