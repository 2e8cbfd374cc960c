"""Pixels of a PNG, JPEG or WebP, decoded by Pillow under our own rules.

Pillow's strictness hangs on switches that belong to the whole process (`ImageFile.LOAD_TRUNCATED_IMAGES`,
`Image.MAX_IMAGE_PIXELS`, the registry behind `Image.open`), and other packs flip them. So the plugin class is chosen
here by content, and the pixels are decoded with `Image.frombytes`, which is strict whatever the switches say.

Covered: every format but the three; truncated files; damaged PNG data (checksums of all chunks that carry pixels or
colours); the first frame only; text and other chunks of a PNG never reach Pillow, so none can be a decompression bomb;
JPEGs that make the decoder pass over the picture again and again.
Not covered: a JPEG whose middle is damaged but whose end is there: its decoder fills in grey, as every viewer does.
Flaws inside libjpeg, zlib, libwebp and LittleCMS. Code in the same process that replaces Pillow's functions.
"""

from __future__ import annotations

import dataclasses
import io
import re
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

MAX_JPEG_SCANS = 100
"""Each is a pass over all pixels. Progressive JPEGs have about 10; a hostile one has 100,000 to the megabyte."""

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
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # all but those inside a scan's data
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN, _APP1 = 0xD8, 0xD9, 0xDA, 0xE1


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
        return decoder(data, header)
    except _PILLOW_ERRORS as error:
        raise Refused(_BROKEN) from error


def _check_size(size: tuple[int, int], header: ImageHeader) -> None:
    if size != (header.stored_width, header.stored_height):
        raise Refused("has pixels of another size than its header says; save it again")


# ---- JPEG ----------------------------------------------------------------------------------------------------


def _decode_jpeg(data: bytes, header: ImageHeader) -> Decoded:
    """Pillow and libjpeg get what comes before the pixels as plain segments: no junk that they might read differently.

    And no Exif data, which Pillow would read here, slowly where there is much, and warn of what is wrong with it.
    """
    before, scans_begin = [], 0
    for kind, begin, end in _jpeg_segments(data):
        if kind == _START_OF_SCAN:
            scans_begin = scans_begin or begin
        elif not scans_begin and kind not in (_START_OF_IMAGE, _APP1):
            before.append(data[begin:end])
    if not scans_begin:
        raise Refused(_BROKEN)
    plain = b"\xff\xd8" + b"".join(before) + data[scans_begin:]
    opened = JpegImagePlugin.JpegImageFile(io.BytesIO(plain))
    _check_size(opened.size, header)  # first: older Pillow writes beyond an image that is smaller than libjpeg's
    image = Image.frombytes(opened.mode, opened.size, plain, "jpeg", opened.tile[0][3])
    return Decoded(image, opened.info.get("icc_profile"))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, its offset, end of its segment) up to the end of the image; the data of the scans is passed over."""
    position, scans = 0, 0
    while (found := _JPEG_MARKER.search(data, position)) and data[found.end() - 1] != _END_OF_IMAGE:
        kind, position = data[found.end() - 1], found.end()
        if kind != _START_OF_IMAGE:
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
        yield kind, found.start(), position
        scans += kind == _START_OF_SCAN
        if scans > MAX_JPEG_SCANS:
            raise Refused(f"is a JPEG with more than {MAX_JPEG_SCANS} scans; save it again")


# ---- WebP ----------------------------------------------------------------------------------------------------


def _decode_webp(data: bytes, header: ImageHeader) -> Decoded:
    """By Pillow's binding to libwebp: its plugin class obeys a process-wide limit and reads the pixels like a file."""
    decoder = WebPImagePlugin._webp.WebPAnimDecoder(data)
    info = decoder.get_info()
    size = info[0] if isinstance(info[0], tuple) else info[:2]  # Pillow before 13 returns two numbers
    _check_size(size, header)
    frame = decoder.get_next()
    if frame is None:
        raise Refused(_BROKEN)
    layout = info[-1]  # RGBA or RGBX
    image = Image.frombytes(layout.replace("X", ""), size, frame[0], "raw", layout)
    return Decoded(image, decoder.get_chunk("ICCP"))


# ---- PNG -----------------------------------------------------------------------------------------------------


def _decode_png(data: bytes, header: ImageHeader) -> Decoded:
    """Take the PNG apart ourselves; Pillow sees its header, palette and transparency, and unpacks its pixels."""
    preamble: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    packed_profile = b""
    for kind, body in _png_chunks(data):
        if kind == b"IDAT":
            pixels.append(body)
        elif kind in (b"IHDR", b"PLTE", b"tRNS") and not pixels:
            preamble.setdefault(kind, body)
        elif kind == b"iCCP" and not pixels:
            packed_profile = packed_profile or body  # the first: unpacking each would take a hostile file minutes
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
    return Decoded(image, _png_profile(packed_profile))


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
