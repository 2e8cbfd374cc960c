"""Size and orientation of a PNG, JPEG or WebP, read from its first bytes.

The format is decided by content, never by the file's name. Pillow is not asked: it wants a whole file where we have
the beginning, and its limits are process-wide switches that any other pack may flip.
Sources: PNG (W3C, third edition), JPEG (ITU T.81), WebP (RFC 9649), Exif 2.32 (TIFF IFD, tag 0x0112).

Covered: every other format is refused; zero and too many pixels; headers that end early, contradict themselves or go
on without end; broken Exif data, which counts as "not rotated".
Not covered: whether the pixels that follow are sound; `decode.py` finds that out. Rotation that is written only in
XMP, or in ImageMagick's old text form, is not applied.
"""

from __future__ import annotations

import dataclasses
import itertools
import struct
import zlib
from collections.abc import Iterator

from .refusal import Refused

MAX_IMAGE_PIXELS = 100_000_000
"""The largest cameras make 100 megapixels; decoded that is 400 MB in Pillow."""
MAX_HEADER_BYTES = 64 * 2**20
"""Phones put depth maps and second pictures, megabytes of them, ahead of a JPEG's size."""

MAX_PARTS = 10_000
"""Segments or chunks ahead of the pixels; JPEG's are at most 64 KiB each, so the limit above is reached first."""

PNG, JPEG, WEBP = "PNG", "JPEG", "WebP"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_TOO_MANY_PARTS = f"has more than {MAX_PARTS:,} parts ahead of its pixels; save it again"
_UPRIGHT = 1
_ORIENTATION_TAG = 0x0112
_TIFF_SHORT = 3
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
_START_OF_SCAN, _APP1 = 0xDA, 0xE1
_MAX_JUNK_BYTES = 4096  # of one file
_WEBP_HAS_EXIF = 0x08


@dataclasses.dataclass(frozen=True)
class ImageHeader:
    """What the first bytes say."""

    format: str
    stored_width: int
    """Pixels, before the orientation is applied."""
    stored_height: int
    orientation: int = _UPRIGHT
    """1 to 8, as in Exif."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as seen, the orientation applied."""
        if self.orientation >= 5:
            return self.stored_height, self.stored_width
        return self.stored_width, self.stored_height


class _Reader:
    """Takes bytes off the front of a stream of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = b""
        self._position = 0
        self._taken = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes, exactly."""
        self._count(count)
        pieces = []
        while (available := len(self._buffer) - self._position) < count:
            pieces.append(self._buffer[self._position :])
            count -= available
            self._buffer, self._position = self._next_chunk(), 0
        start = self._position
        self._position += count
        pieces.append(self._buffer[start : self._position])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def skip(self, count: int) -> None:
        """Pass over `count` bytes without keeping them."""
        self._count(count)
        while (available := len(self._buffer) - self._position) < count:
            count -= available
            self._buffer, self._position = self._next_chunk(), 0
        self._position += count

    def _count(self, count: int) -> None:
        self._taken += count
        if self._taken > MAX_HEADER_BYTES:
            raise Refused(f"has a header of more than {MAX_HEADER_BYTES // 2**20} MiB; save it again")

    def _next_chunk(self) -> bytes:
        for chunk in self._chunks:
            return chunk
        raise Refused("is cut off before its size is told; replace it with an intact copy")


def read_header(chunks: Iterator[bytes]) -> ImageHeader:
    """Read no more of an image than its header needs. Raises `Refused`."""
    reader = _Reader(chunks)
    start = reader.take(4)
    if start == PNG_SIGNATURE[:4]:
        header = _png_header(reader)
    elif start[:3] == b"\xff\xd8\xff":
        header = _jpeg_header(reader, start[3])
    elif start == b"RIFF":
        header = _webp_header(reader)
    else:
        if start[:3] == b"\0\0\0" and reader.take(4) == b"ftyp":
            raise Refused("is a HEIC or AVIF photo, whatever its name says; export it as JPEG or PNG")
        raise Refused("is not a PNG, JPEG or WebP image, whatever its name says; save it as one")
    _check_size(header.stored_width, header.stored_height)
    return header


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise Refused("says that it has no pixels; replace it with an intact copy")
    if width * height > MAX_IMAGE_PIXELS:
        limit = MAX_IMAGE_PIXELS // 1_000_000
        raise Refused(f"has {width}x{height} pixels, more than {limit} megapixels; make it smaller")


# ---- PNG -----------------------------------------------------------------------------------------------------


def _png_header(reader: _Reader) -> ImageHeader:
    if reader.take(4) != PNG_SIGNATURE[4:]:
        raise Refused("is a PNG that was altered on its way (text-mode transfer); replace it with an intact copy")
    length, kind = struct.unpack(">L4s", reader.take(8))
    if kind == b"CgBI":
        raise Refused("is a PNG in Apple's private form; open it in Preview and export it again")
    if kind != b"IHDR" or length != 13:
        raise Refused("is a PNG without a proper start; replace it with an intact copy")
    body, crc = reader.take(13), reader.take(4)
    if zlib.crc32(kind + body) != int.from_bytes(crc, "big"):
        raise Refused("is a damaged PNG (wrong checksum); replace it with an intact copy")
    width, height = struct.unpack(">2L", body[:8])
    orientation = _UPRIGHT
    for _ in range(MAX_PARTS):
        length, kind = struct.unpack(">L4s", reader.take(8))
        if kind in (b"IDAT", b"IEND"):
            return ImageHeader(PNG, width, height, orientation)
        if kind == b"eXIf":
            orientation = exif_orientation(reader.take(length))
            length = 0
        reader.skip(length + 4)
    raise Refused(_TOO_MANY_PARTS)


# ---- JPEG ----------------------------------------------------------------------------------------------------


def _jpeg_header(reader: _Reader, first: int) -> ImageHeader:
    """Walk the segments up to the first scan. `reader` stands behind `first`, the byte after the first 0xFF."""
    size: tuple[int, int] | None = None
    orientation: int | None = None
    for marker in itertools.islice(_markers(reader, first), MAX_PARTS):
        if marker == _START_OF_SCAN:
            break
        if marker == 0xD9:
            raise Refused("is a JPEG without pixels; replace it with an intact copy")
        if marker not in _WITHOUT_LENGTH:
            length = int.from_bytes(reader.take(2), "big") - 2
            if length < 0:
                raise Refused("is a damaged JPEG; replace it with an intact copy")
            if marker in _START_OF_FRAME and length >= 6:
                height, width = struct.unpack(">2H", reader.take(6)[1:5])
                if size not in (None, (width, height)):
                    raise Refused("is a JPEG with two sizes; save it again")
                size, length = (width, height), length - 6
            elif marker == _APP1 and orientation is None and length >= 6:
                body, length = reader.take(length), 0
                orientation = exif_orientation(body) if body[:6] == b"Exif\0\0" else None
            reader.skip(length)
    else:
        raise Refused(_TOO_MANY_PARTS)
    if size is None:
        raise Refused("is a JPEG without a size; replace it with an intact copy")
    return ImageHeader(JPEG, *size, orientation or _UPRIGHT)


def _markers(reader: _Reader, first: int) -> Iterator[int]:
    """Marker after marker, fill bytes and a little junk between segments passed over as every decoder does."""
    junk, previous, byte = 0, 0xFF, first
    while junk <= _MAX_JUNK_BYTES:
        if previous == 0xFF and byte not in (0x00, 0xFF):
            yield byte
            junk, previous = junk - 1, 0  # the marker's own 0xFF was none
        else:
            junk, previous = junk + 1, byte
        byte = reader.take(1)[0]
    raise Refused("is a damaged JPEG; replace it with an intact copy")


# ---- WebP ----------------------------------------------------------------------------------------------------


def _webp_header(reader: _Reader) -> ImageHeader:
    reader.skip(4)
    if reader.take(4) != b"WEBP":
        raise Refused("is not a PNG, JPEG or WebP image, whatever its name says; save it as one")
    kind, length = struct.unpack("<4sL", reader.take(8))
    body = reader.take(10)
    if kind == b"VP8X":
        width = int.from_bytes(body[4:7], "little") + 1
        height = int.from_bytes(body[7:10], "little") + 1
        _check_size(width, height)
        reader.skip(max(length - 10, 0) + length % 2)
        orientation = _webp_orientation(reader) if body[0] & _WEBP_HAS_EXIF else _UPRIGHT
        return ImageHeader(WEBP, width, height, orientation)
    if kind == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return ImageHeader(WEBP, (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<2H", body[6:10])
        return ImageHeader(WEBP, width & 0x3FFF, height & 0x3FFF)
    raise Refused("is a damaged WebP; replace it with an intact copy")


def _webp_orientation(reader: _Reader) -> int:
    """The Exif chunk comes after the pixels, so this reads the file to its end; few WebP files have one."""
    for _ in range(MAX_PARTS):
        kind, length = struct.unpack("<4sL", reader.take(8))
        if kind == b"EXIF":
            return exif_orientation(reader.take(length))
        reader.skip(length + length % 2)
    raise Refused(_TOO_MANY_PARTS)


# ---- Exif ----------------------------------------------------------------------------------------------------


def exif_orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, of a block of Exif data (with or without its `Exif` prefix); 1 where there is none."""
    tiff = exif[6:] if exif[:6] == b"Exif\0\0" else exif
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    try:
        if order is None:
            return _UPRIGHT
        (directory,) = struct.unpack_from(order + "L", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, directory)
        for index in range(count):
            tag, kind, _, value = struct.unpack_from(order + "2HLH", tiff, directory + 2 + 12 * index)
            if tag == _ORIENTATION_TAG:
                return value if kind == _TIFF_SHORT and 1 <= value <= 8 else _UPRIGHT
    except struct.error:  # a directory that points beyond the data
        pass
    return _UPRIGHT
