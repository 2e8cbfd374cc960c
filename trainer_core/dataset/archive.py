"""Reading the files of a zip in place: bounded, checked, and never written to disk.

Covered: the archive is opened anew for every read (so several threads may read, and no handle stays behind); output
is counted while it is produced, and stops at the declared size, the caller's limit or the greatest expansion ratio,
whichever comes first; sizes that were understated or overstated, a wrong checksum, data after the end of the deflate
stream, a stream much longer than what it unpacks to, a local header that contradicts the directory, local headers that
make entries overlap, encryption, and every compression but none and deflate. Archives inside the archive are not
opened. What the directory itself may say is judged in `zip_directory.py`.
Not covered: an archive replaced by an equally well-formed one between two reads (the caller compares image sizes).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import struct
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import DatasetUnreadable
from .refusal import Refused
from .zip_directory import ZipEntry, read_directory

MAX_RATIO = 200
"""Unpacked bytes per packed byte. Photographs reach 1, text 10; deflate can do 1032."""
RATIO_FREE_BYTES = 2**20
"""Small files may expand as they like: ten thousand of them are no danger."""
MAX_PACKING_LOSS = 2
"""Packed bytes per unpacked byte, beyond the first 64 KiB. A deflate stream can go on without producing anything."""

_FIRST_READ_BYTES = 4 * 2**10  # most image headers end within it
_MAX_READ_BYTES = 64 * 2**10
_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
_METHOD_NAMES = {9: "Deflate64", 12: "BZip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd", 99: "AES encryption"}
_FLAG_DESCRIPTOR = 0x8
_FLAGS_ENCRYPTED = 0x1 | 0x40 | 0x2000
_FLAG_PATCH = 0x20
_FOREIGN = {
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\x1f\x8b": "a gzip file",
    b"\xfd7zXZ": "an xz file",
    b"BZh": "a bzip2 file",
}
_WEB_PAGE_STARTS = (b"<!doctype", b"<html", b"<?xml")


@dataclasses.dataclass(frozen=True)
class ZipContainer:
    """A zip whose directory has been judged. Plain data; holds no open file."""

    label: str
    source: Path | bytes = dataclasses.field(repr=False)
    entries: dict[str, ZipEntry] = dataclasses.field(repr=False)

    @property
    def files(self) -> tuple[ZipEntry, ...]:
        return tuple(self.entries.values())

    def chunks(self, name: str) -> Generator[bytes, None, None]:
        """The unpacked contents of one file, in pieces of at most 64 KiB. Close the iterator to stop early.

        Raises `DatasetUnreadable`, at the latest after the last piece; an unfinished iterator has checked no checksum.
        """
        try:
            with _opened(self.source) as handle:
                yield from _entry_chunks(handle, self.entries[name])
        except Refused as refusal:
            raise DatasetUnreadable(f"{self.label}: the file {name} {refusal}.") from None
        except zlib.error:
            raise DatasetUnreadable(f"{self.label}: the file {name} is damaged; make the archive again.") from None
        except OSError as error:
            raise DatasetUnreadable(f"{self.label} cannot be read: {error.strerror or error}.") from error


def open_zip(source: Path | bytes, label: str) -> ZipContainer:
    """Judge a zip on disk or in memory. Raises `DatasetUnreadable`."""
    try:
        with _opened(source) as handle:
            _check_not_foreign(handle.read(64))
            entries = read_directory(handle)
    except Refused as refusal:
        raise DatasetUnreadable(f"{label} cannot be used as a dataset: {refusal}.") from None
    except OSError as error:
        raise DatasetUnreadable(f"{label} cannot be read: {error.strerror or error}.") from error
    return ZipContainer(label, source, {entry.name: entry for entry in entries})


@contextlib.contextmanager
def _opened(source: Path | bytes) -> Iterator[BinaryIO]:
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as handle:
        yield handle


def _check_not_foreign(start: bytes) -> None:
    for signature, what in _FOREIGN.items():
        if start.startswith(signature):
            raise Refused(f"it is {what}; make a zip")
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_WEB_PAGE_STARTS):
        raise Refused("it is a web page; use the address of the zip itself, which a download button leads to")


def _entry_chunks(handle: BinaryIO, entry: ZipEntry) -> Iterator[bytes]:
    _check_readable(entry)
    _seek_to_data(handle, entry)
    packed = _packed_chunks(handle, entry.compressed)
    return _checked(packed if entry.method == _STORED else _inflated(packed), entry)


def _check_readable(entry: ZipEntry) -> None:
    if entry.flags & _FLAGS_ENCRYPTED:
        raise Refused("is encrypted; make the zip again without a password")
    if entry.flags & _FLAG_PATCH or entry.method not in (_STORED, _DEFLATED):
        method = _METHOD_NAMES.get(entry.method, f"method {entry.method}")
        raise Refused(f"is compressed with {method}, which is not read; make the zip again with ordinary compression")
    if entry.method == _STORED and entry.compressed != entry.size:
        raise Refused("has two sizes that disagree; make the archive again")
    if entry.compressed > MAX_PACKING_LOSS * entry.size + _MAX_READ_BYTES:
        raise Refused("takes far more space packed than unpacked; make the archive again")


def _seek_to_data(handle: BinaryIO, entry: ZipEntry) -> None:
    """Check the local header against the directory and leave `handle` at the first byte of data."""
    handle.seek(entry.offset)
    record = handle.read(_LOCAL.size)
    if len(record) != _LOCAL.size:
        raise Refused("is cut off; download or make the archive again")
    signature, _, flags, method, _, _, crc, compressed, size, name_bytes, extra_bytes = _LOCAL.unpack(record)
    raw_name = handle.read(name_bytes)
    same = signature == b"PK\x03\x04" and method == entry.method and raw_name == entry.raw_name
    same = same and (flags & _FLAGS_ENCRYPTED) == (entry.flags & _FLAGS_ENCRYPTED)
    if not flags & _FLAG_DESCRIPTOR:  # else the three are written after the data
        same = same and crc == entry.crc
        same = same and compressed in (entry.compressed, 0xFFFFFFFF) and size in (entry.size, 0xFFFFFFFF)
    if not same:
        raise Refused("is described in two ways that disagree; make the archive again")
    data_offset = entry.offset + _LOCAL.size + name_bytes + extra_bytes
    if data_offset + entry.compressed > entry.limit:
        raise Refused("overlaps another file, which only a zip bomb or a damaged archive does; make the archive again")
    handle.seek(data_offset)


def _packed_chunks(handle: BinaryIO, remaining: int) -> Iterator[bytes]:
    """Exactly `remaining` bytes of the archive, a little at first and then more at a time."""
    step = _FIRST_READ_BYTES
    while remaining:
        chunk = handle.read(min(step, remaining))
        if not chunk:
            raise Refused("is cut off; download or make the archive again")
        remaining -= len(chunk)
        step = min(2 * step, _MAX_READ_BYTES)
        yield chunk


def _inflated(packed: Iterator[bytes]) -> Iterator[bytes]:
    """Undo deflate without ever producing more than 64 KiB at once."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    for piece in packed:
        if inflater.eof:
            raise Refused("holds data after its end; make the archive again")
        out = inflater.decompress(piece, _MAX_READ_BYTES)
        while out:
            yield out
            out = inflater.decompress(inflater.unconsumed_tail, _MAX_READ_BYTES)
    if not inflater.eof or inflater.unused_data:
        raise Refused("is cut off or holds data after its end; make the archive again")


def _checked(chunks: Iterator[bytes], entry: ZipEntry) -> Iterator[bytes]:
    """Pass the contents on while counting them; nothing that was declared is believed."""
    produced, crc = 0, 0
    for chunk in chunks:
        produced += len(chunk)
        if produced > entry.size:
            raise Refused("unpacks to more than the archive declares; make the archive again")
        if produced > RATIO_FREE_BYTES and produced > MAX_RATIO * entry.compressed:
            raise Refused(f"expands more than {MAX_RATIO} times, which only a zip bomb does; save the file again")
        crc = zlib.crc32(chunk, crc)
        yield chunk
    if produced != entry.size:
        raise Refused("unpacks to less than the archive declares; make the archive again")
    if crc != entry.crc:
        raise Refused("is damaged (its checksum is wrong); download or make the archive again")
