"""The directory of a zip: its list of entries, read and judged before any entry is touched.

Sources: PKWARE APPNOTE 6.3.10 (the format), D. Fifield, "A better zip bomb" (WOOT 2019; overlapping entries).
We read the directory ourselves because zipfile in CPython up to 3.12 opens overlapping entries and because readers
that search and repair are how one archive comes to mean two things.

Covered: an archive, a directory, an entry count, or a name beyond its limit; more than one directory; a directory that
does not end exactly where the end record begins; multi-part archives; overlapping entries (by what the directory says;
`archive.py` repeats the check with the local headers); duplicate names; names that are not text. Links and devices are
marked, not refused.
Not covered: data hidden between entries, which is never read; the Unicode path field, which is ignored, so that a name
is always the one in the entry's header.
"""

from __future__ import annotations

import dataclasses
import os
import stat
import struct
from collections.abc import Iterator
from typing import BinaryIO

from .names import check_distinct, clean_name
from .refusal import Refused

MAX_ARCHIVE_BYTES = 64 * 2**30
"""Ten thousand camera originals. The archive is read in place, so this bounds time, not memory."""
MAX_ENTRIES = 100_000
"""Ten thousand images with captions and masks, and macOS's twin of each, are 60,000."""
MAX_DIRECTORY_BYTES = 32 * 2**20
"""Held in memory while it is read; 300 bytes for each of the most entries."""

_DAMAGED = "it is damaged or cut off; download or make it again"
_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\x05\x06"
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LONGEST_COMMENT_BYTES = 0xFFFF
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF  # "see the zip64 record instead"
_FLAG_UTF8 = 0x800
_ZIP64_FIELD = 1


@dataclasses.dataclass(frozen=True, slots=True)
class ZipEntry:
    """One file as the directory declares it. Nothing in it is trusted before `archive.py` has read the entry."""

    name: str
    """Cleaned by `names.clean_name`."""
    raw_name: bytes
    flags: int
    method: int
    crc: int
    compressed: int
    """Bytes in the archive."""
    size: int
    """Bytes when unpacked."""
    offset: int
    """Of the local header."""
    limit: int
    """Offset at which the next entry or the directory begins."""
    unusable: str
    """Why the entry is passed over ("" for an ordinary file)."""


@dataclasses.dataclass(frozen=True)
class _Span:
    """Where the directory lies in the archive, and how many entries it claims."""

    offset: int
    size: int
    count: int


def read_directory(handle: BinaryIO) -> tuple[ZipEntry, ...]:
    """Every file of the archive (folders are left out), in the order of the directory.

    Raises `Refused`.
    """
    archive_bytes = handle.seek(0, os.SEEK_END)
    if archive_bytes > MAX_ARCHIVE_BYTES:
        raise Refused(f"it is larger than {MAX_ARCHIVE_BYTES // 2**30} GiB; split it")
    span = _find_directory(handle, archive_bytes)
    if span.count > MAX_ENTRIES:
        raise Refused(f"it lists {span.count} files, more than {MAX_ENTRIES}; split it")
    if span.size > MAX_DIRECTORY_BYTES:
        raise Refused(f"its directory is larger than {MAX_DIRECTORY_BYTES // 2**20} MiB; split it")
    handle.seek(span.offset)
    entries = list(_parse(_exactly(handle, span.size), span.count))
    entries = _with_limits(entries, span.offset)
    files = tuple(entry for entry in entries if not entry.raw_name.endswith((b"/", b"\\")))
    if not all(entry.name for entry in files):
        raise Refused("it holds a file without a name; make it again")
    check_distinct(entry.name for entry in files)
    return files


def _exactly(handle: BinaryIO, count: int) -> bytes:
    data = handle.read(count)
    if len(data) != count:
        raise Refused(_DAMAGED)
    return data


def _find_directory(handle: BinaryIO, archive_bytes: int) -> _Span:
    """Locate the end record, and the zip64 one before it, and check that everything meets without a gap."""
    tail_bytes = min(archive_bytes, _END.size + _LONGEST_COMMENT_BYTES)
    handle.seek(archive_bytes - tail_bytes)
    tail = _exactly(handle, tail_bytes)
    end_offset = archive_bytes - tail_bytes + _end_position(tail)
    handle.seek(end_offset)
    _, disk, start_disk, disk_count, count, size, offset, _ = _END.unpack(_exactly(handle, _END.size))
    span, directory_end = _Span(offset, size, count), end_offset
    end64 = _read_end64(handle, end_offset)
    if end64 is not None:
        wide, directory_end = end64
        narrow_agrees = (
            size in (wide.size, _FULL32) and offset in (wide.offset, _FULL32) and count in (wide.count, _FULL16)
        )
        if not narrow_agrees:
            raise Refused("it has two directories that disagree; make it again")
        span, disk_count, disk, start_disk = wide, count, 0, 0
    if disk or start_disk or disk_count != count:
        raise Refused("it is one part of a multi-part archive; join the parts into one zip")
    if span.offset + span.size != directory_end:
        raise Refused("its directory is not where its end record says, or other data surrounds it; make it again")
    return span


def _end_position(tail: bytes) -> int:
    """Position of the one end record whose comment reaches exactly to the end of the archive."""
    found = []
    position = tail.rfind(_END_SIGNATURE)
    while position >= 0:
        record = tail[position : position + _END.size]
        if len(record) == _END.size and position + _END.size + _END.unpack(record)[7] == len(tail):
            found.append(position)
        position = tail.rfind(_END_SIGNATURE, 0, position)
    if not found:
        raise Refused(f"it is not a complete zip archive: {_DAMAGED}")
    if len(found) > 1:
        raise Refused("it has more than one directory; make it again")
    return found[0]


def _read_end64(handle: BinaryIO, end_offset: int) -> tuple[_Span, int] | None:
    """The directory's span by the zip64 record, and where that record begins; None for an ordinary zip."""
    if end_offset < _END64_LOCATOR.size + _END64.size:
        return None
    locator_offset = end_offset - _END64_LOCATOR.size
    handle.seek(locator_offset)
    signature, disk, record_offset, disks = _END64_LOCATOR.unpack(_exactly(handle, _END64_LOCATOR.size))
    if signature != b"PK\x06\x07":
        return None
    if disk or disks > 1:
        raise Refused("it is one part of a multi-part archive; join the parts into one zip")
    if record_offset + _END64.size > locator_offset:
        raise Refused(_DAMAGED)
    handle.seek(record_offset)
    record = _END64.unpack(_exactly(handle, _END64.size))
    signature, record_size, _, _, disk, start_disk, disk_count, count, size, offset = record
    if signature != b"PK\x06\x06" or record_offset + 12 + record_size != locator_offset:
        raise Refused(_DAMAGED)
    if disk or start_disk or disk_count != count:
        raise Refused("it is one part of a multi-part archive; join the parts into one zip")
    return _Span(offset, size, count), record_offset


def _parse(directory: bytes, count: int) -> Iterator[ZipEntry]:
    position = 0
    for _ in range(count):
        if position + _CENTRAL.size > len(directory):
            raise Refused(_DAMAGED)
        fields = _CENTRAL.unpack_from(directory, position)
        name_bytes, extra_bytes, comment_bytes = fields[10:13]
        position += _CENTRAL.size
        end = position + name_bytes + extra_bytes + comment_bytes
        if fields[0] != b"PK\x01\x02" or end > len(directory):
            raise Refused(_DAMAGED)
        raw_name = directory[position : position + name_bytes]
        extra = directory[position + name_bytes : position + name_bytes + extra_bytes]
        yield _entry(fields, raw_name, extra)
        position = end
    if position != len(directory):
        raise Refused("its directory holds more than the entries it counts; make it again")


def _entry(fields: tuple[int, ...], raw_name: bytes, extra: bytes) -> ZipEntry:
    _, _, _, flags, method, _, _, crc, compressed, size, _, _, _, disk, _, attributes, offset = fields
    declared = {"size": size, "compressed": compressed, "offset": offset}
    wide = [name for name, value in declared.items() if value == _FULL32]
    if wide or disk == _FULL16:
        declared |= _zip64_values(extra, wide)
        disk = 0 if disk == _FULL16 else disk
    if disk:
        raise Refused("it is one part of a multi-part archive; join the parts into one zip")
    return ZipEntry(
        name=clean_name(_decode_name(raw_name, flags)),
        raw_name=raw_name,
        flags=flags,
        method=method,
        crc=crc,
        **declared,
        limit=0,
        unusable=_unusable(attributes >> 16),
    )


def _zip64_values(extra: bytes, wanted: list[str]) -> dict[str, int]:
    """64-bit values of the fields that hold the marker; the zip64 field lists just those, always in this order."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        body = extra[position + 4 : position + 4 + length]
        if kind == _ZIP64_FIELD and len(body) >= 8 * len(wanted):
            return dict(zip(wanted, struct.unpack_from(f"<{len(wanted)}Q", body), strict=True))
        position += 4 + length
    raise Refused(_DAMAGED)


def _decode_name(raw_name: bytes, flags: int) -> str:
    """UTF-8 where the flag says so, and where it does not but the bytes are UTF-8 (macOS); else code page 437."""
    try:
        return raw_name.decode()
    except UnicodeDecodeError:
        if flags & _FLAG_UTF8:
            raise Refused(f"the file name {raw_name[:80]!r} is not the UTF-8 that it claims to be; rename it") from None
        return raw_name.decode("cp437")


def _unusable(unix_mode: int) -> str:
    """Zips made on Unix carry the file's mode; others leave it 0."""
    kind = stat.S_IFMT(unix_mode)
    if kind == stat.S_IFLNK:
        return "symbolic link: not followed"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "not a regular file"
    return ""


def _with_limits(entries: list[ZipEntry], directory_offset: int) -> list[ZipEntry]:
    """Give every entry the offset of its successor, and refuse entries that reach into one another."""
    by_offset = sorted(range(len(entries)), key=lambda index: entries[index].offset)
    limit = directory_offset
    for index in reversed(by_offset):
        entry = entries[index]
        least_bytes = 30 + len(entry.raw_name) + entry.compressed
        if entry.offset + least_bytes > limit:
            raise Refused("its entries overlap, which only a zip bomb or a damaged archive has; make it again")
        entries[index] = dataclasses.replace(entry, limit=limit)
        limit = entry.offset
    return entries
