"""Pixels of a PNG, JPEG or WebP, decoded by Pillow under our own rules.

Pillow's strictness hangs on switches that belong to the whole process (`ImageFile.LOAD_TRUNCATED_IMAGES`,
`Image.MAX_IMAGE_PIXELS`, the registry behind `Image.open`), and other packs flip them. So the plugin class is chosen
here by content, and the pixels are decoded with `Image.frombytes`, which is strict whatever the switches say.

Covered: every format but the three; truncated files; damaged PNG data (checksums of all chunks that carry pixels or
colours); the first frame only; text and other chunks of a PNG never reach Pillow, so none can be a decompression bomb.
Not covered: a JPEG whose middle is damaged but whose end is there: its decoder fills in grey, as every viewer does.
Flaws inside libjpeg, zlib, libwebp and LittleCMS. WebP has no switch to be flipped, except that a process-wide pixel
limit set below the image's size refuses it.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from .headers import JPEG, PNG, PNG_SIGNATURE, WEBP, ImageHeader, exif_orientation
from .refusal import Refused

MAX_PROFILE_BYTES = 8 * 2**20
"""The largest colour profiles in use (CMYK presses) are 3 MB."""

MAX_PNG_CHUNKS = 1_000_000
"""Some encoders cut the pixels into chunks of 256 bytes; empty chunks only cost time."""

_PILLOW_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow raises on bad data; it documents few of them."""
_BROKEN = "is truncated or damaged; replace it with an intact copy"
_GREY, _TRUE_COLOUR = 0, 2  # PNG colour types


@dataclasses.dataclass(frozen=True)
class Decoded:
    """One picture as stored: not yet oriented, in Pillow's mode for it."""

    image: Image.Image
    profile: bytes | None
    """ICC colour profile, unchecked."""


def decode(data: bytes, header: ImageHeader) -> Decoded:
    """Decode the first frame. `header` is what `headers.read_header` found in the same bytes. Raises `Refused`."""
    decoder = {PNG: _decode_png, JPEG: _decode_jpeg, WEBP: _decode_webp}[header.format]
    try:
        decoded = decoder(data, header)
    except Image.DecompressionBombError:
        raise Refused("is beyond Pillow's limit (Image.MAX_IMAGE_PIXELS), which some other pack has lowered") from None
    except _PILLOW_ERRORS as error:
        raise Refused(_BROKEN) from error
    if decoded.image.size != (header.stored_width, header.stored_height):
        raise Refused("has pixels of another size than its header says; save it again")
    return decoded


def _decode_jpeg(data: bytes, header: ImageHeader) -> Decoded:
    opened = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    decoder_args = opened.tile[0][3]
    image = Image.frombytes(opened.mode, opened.size, data, "jpeg", decoder_args)
    return Decoded(image, opened.info.get("icc_profile"))


def _decode_webp(data: bytes, header: ImageHeader) -> Decoded:
    opened = WebPImagePlugin.WebPImageFile(io.BytesIO(data))
    opened.load()
    return Decoded(opened, opened.info.get("icc_profile"))


# ---- PNG -----------------------------------------------------------------------------------------------------


def _decode_png(data: bytes, header: ImageHeader) -> Decoded:
    """Take the PNG apart ourselves; Pillow sees its header, palette and transparency, and unpacks its pixels."""
    preamble: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    profile = None
    for kind, body in _png_chunks(data):
        if kind == b"IDAT":
            pixels.append(body)
        elif kind in (b"IHDR", b"PLTE", b"tRNS") and not pixels:
            preamble.setdefault(kind, body)
        elif kind == b"iCCP" and not pixels:
            profile = _png_profile(body)
        elif kind == b"eXIf" and pixels and exif_orientation(body) not in (1, header.orientation):
            raise Refused("is a PNG with its rotation written behind its pixels, where few look; save it again")
    depth, colour_type, _, _, interlaced = preamble[b"IHDR"][8:13]
    _check_transparency(preamble, colour_type)
    start = b"".join(_png_chunk(kind, body) for kind, body in preamble.items())
    opened = PngImagePlugin.PngImageFile(io.BytesIO(PNG_SIGNATURE + start + _png_chunk(b"IDAT", b"")))
    rawmode = opened.tile[0][3]
    image = Image.frombytes(opened.mode, opened.size, b"".join(pixels), "zip", rawmode, interlaced)
    if opened.palette is not None:
        palette_mode, palette = opened.palette.getdata()
        image.putpalette(palette, palette_mode)
    if "transparency" in opened.info:
        image.info["transparency"] = _scaled_transparency(opened.info["transparency"], opened.mode, depth)
    return Decoded(image, profile)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every chunk up to IEND, its checksum verified where it matters; a PNG without IEND is cut off."""
    position = len(PNG_SIGNATURE)
    for _ in range(MAX_PNG_CHUNKS):
        length, kind = struct.unpack_from(">L4s", data, position)
        body = data[position + 8 : position + 8 + length]
        (crc,) = struct.unpack_from(">L", data, position + 8 + length)
        sound = zlib.crc32(kind + body) == crc
        if not sound and kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            raise Refused(_BROKEN)
        if sound:  # a damaged comment or profile is as good as none
            yield kind, body
        if kind == b"IEND":
            return
        position += 12 + length
    raise Refused(f"has more than {MAX_PNG_CHUNKS:,} chunks; save it again")


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))


def _png_profile(body: bytes) -> bytes | None:
    """The unpacked profile of an iCCP chunk, or None where it is broken or too large."""
    _, _, packed = body.partition(b"\0")
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(packed[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if inflater.eof else None


def _check_transparency(preamble: dict[bytes, bytes], colour_type: int) -> None:
    length = len(preamble.get(b"tRNS", b""))
    if length and colour_type in (_GREY, _TRUE_COLOUR) and length != {_GREY: 2, _TRUE_COLOUR: 6}[colour_type]:
        raise Refused(_BROKEN)


def _scaled_transparency(key: Any, mode: str, depth: int) -> Any:
    """Pillow scales samples to 8 bits but leaves the transparent colour as it is stored; scale it alike."""
    if mode == "L" and depth in (2, 4):
        return key * 255 // (2**depth - 1)
    if mode == "RGB" and depth == 16:
        return tuple(sample >> 8 for sample in key)
    return key
