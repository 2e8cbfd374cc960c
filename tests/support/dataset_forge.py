"""Images and zips made in code, honest and hostile, for the tests of the dataset room."""

from __future__ import annotations

import dataclasses
import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

STORED, DEFLATED, DEFLATE64 = 0, 8, 9
REGULAR, SYMLINK, PIPE, SOCKET, BLOCK_DEVICE = 0o100644, 0o120777, 0o010644, 0o140644, 0o060644


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int = 32, height: int = 24, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Random pixels, which no codec can shorten much."""
    shape = (height, width, len(mode)) if len(mode) > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode=None)


def png(width: int = 32, height: int = 24, seed: int = 0) -> bytes:
    return encode(noise(width, height, seed))


def zip_of(files: Mapping[str, bytes | str], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An ordinary zip, as Python's own library makes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@dataclasses.dataclass
class Entry:
    """One entry of a zip written by hand; every field that is not None is written as it stands, true or not."""

    name: bytes
    data: bytes = b""
    method: int = DEFLATED
    flags: int = 0
    unix_mode: int = REGULAR
    packed: bytes | None = None
    size: int | None = None
    packed_size: int | None = None
    crc: int | None = None
    offset: int | None = None
    central_extra: bytes = b""
    local_extra: bytes = b""
    local: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Fields that the local header alone gets: name, flags, method, crc, packed_size, size."""
    descriptor: bool = False
    """Write sizes and checksum after the data, as a streaming tool does."""

    def resolved(self) -> dict[str, Any]:
        packed = self.packed if self.packed is not None else pack(self.data, self.method)
        return {
            "packed": packed,
            "packed_size": len(packed) if self.packed_size is None else self.packed_size,
            "size": len(self.data) if self.size is None else self.size,
            "crc": zlib.crc32(self.data) if self.crc is None else self.crc,
        }


def pack(data: bytes, method: int) -> bytes:
    if method != DEFLATED:
        return data
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def forge(
    entries: list[Entry],
    *,
    comment: bytes = b"",
    count: int | None = None,
    directory_shift: int = 0,
    directory_tail: bytes = b"",
    disk: int = 0,
    zip64: bool = False,
) -> bytes:
    """A zip written byte by byte from `entries`, with an end record that may lie."""
    body, directory = bytearray(), bytearray()
    for entry in entries:
        fields = entry.resolved()
        offset = len(body) if entry.offset is None else entry.offset
        body += _local_header(entry, fields) + fields["packed"]
        if entry.descriptor:
            body += struct.pack("<4s3L", b"PK\x07\x08", fields["crc"], fields["packed_size"], fields["size"])
        directory += _central_header(entry, fields, offset)
    directory += directory_tail
    count = len(entries) if count is None else count
    start = len(body) + directory_shift
    end = b""
    if zip64:
        end += struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(directory), start)
        end += struct.pack("<4sLQL", b"PK\x06\x07", 0, len(body) + len(directory), 1)
    narrow = (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF) if zip64 else (count, count, len(directory), start)
    end += struct.pack("<4s4H2LH", b"PK\x05\x06", disk, disk, *narrow, len(comment)) + comment
    return bytes(body + directory + end)


def quoted_overlap_bomb(count: int, kernel: bytes) -> bytes:
    """A small zip of `count` files that each unpack to `kernel` and more, after D. Fifield (WOOT 2019).

    Every file's deflate stream begins with a stored block that quotes the next file's local header, and runs on into
    the next file's data; readers that trust sizes, signatures and checksums find nothing wrong.
    """
    entries: list[Entry] = []
    data, packed_size, header = kernel, len(pack(kernel, DEFLATED)), b""
    for index in reversed(range(count)):
        name = b"%04d.png" % index
        if not entries:
            entry = Entry(name, kernel)
        else:
            quote = struct.pack("<BHH", 0, len(header), len(header) ^ 0xFFFF)
            data, packed_size = header + data, len(quote) + len(header) + packed_size
            entry = Entry(name, packed=quote, packed_size=packed_size, size=len(data), crc=zlib.crc32(data))
        header = _local_header(entry, entry.resolved())
        entries.insert(0, entry)
    return forge(entries)


def _local_header(entry: Entry, fields: dict[str, Any]) -> bytes:
    flags = entry.flags | (8 if entry.descriptor else 0)
    told = {"name": entry.name, "flags": flags, "method": entry.method, **fields, **entry.local}
    if entry.descriptor:
        told |= {"crc": 0, "packed_size": 0, "size": 0}
    return (
        struct.pack(
            "<4s5H3L2H",
            b"PK\x03\x04",
            20,
            told["flags"],
            told["method"],
            0,
            33,
            told["crc"],
            told["packed_size"],
            told["size"],
            len(told["name"]),
            len(entry.local_extra),
        )
        + told["name"]
        + entry.local_extra
    )


def _central_header(entry: Entry, fields: dict[str, Any], offset: int) -> bytes:
    return (
        struct.pack(
            "<4s6H3L5H2L",
            b"PK\x01\x02",
            (3 << 8) | 20,
            20,
            entry.flags | (8 if entry.descriptor else 0),
            entry.method,
            0,
            33,
            fields["crc"],
            fields["packed_size"],
            fields["size"],
            len(entry.name),
            len(entry.central_extra),
            0,
            0,
            0,
            entry.unix_mode << 16,
            offset,
        )
        + entry.name
        + entry.central_extra
    )


# ---- parts of image files ------------------------------------------------------------------------------------


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, position = [], 8
    while position < len(data):
        length, kind = struct.unpack_from(">L4s", data, position)
        chunks.append((kind, data[position + 8 : position + 8 + length]))
        position += 12 + length
    return chunks


def png_from(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in chunks)


def exif(orientation: int) -> bytes:
    """Exif data with nothing but an orientation, as Pillow writes it."""
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()
