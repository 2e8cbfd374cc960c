"""Zips that lie, in one table. Each is an ordinary dataset but for one lie, and is refused for that lie, in words."""

from __future__ import annotations

import struct
import time
import tracemalloc
import unicodedata
import zlib
from typing import Any

import pytest
from dataset_forge import (
    BLOCK_DEVICE,
    DEFLATE64,
    DEFLATED,
    PIPE,
    SOCKET,
    STORED,
    SYMLINK,
    Entry,
    forge,
    pack,
    png,
    quoted_overlap_bomb,
    zip_of,
)
from ideogram4_lora_trainer.trainer_core.dataset import open_dataset
from ideogram4_lora_trainer.trainer_core.errors import UserError

PICTURE = png()
PACKED = pack(PICTURE, DEFLATED)
EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"  # a piece of a deflate stream that unpacks to nothing
MAX_EXTRA_BYTES = 4_000_000
MAX_SECONDS = 5.0

Case = tuple[bytes, str]
"""A zip, and words of the message that refuses it."""


def base() -> list[Entry]:
    return [Entry(b"a.png", PICTURE), Entry(b"a.txt", b"a caption")]


def with_entry(name: bytes = b"b.png", data: bytes = PICTURE, **fields: Any) -> bytes:
    """The ordinary dataset and one entry more, of which any field may be a lie."""
    return forge([*base(), Entry(name, data, **fields), Entry(b"b.txt", b"another")])


def patched(data: bytes, position: int, layout: str, *values: Any) -> bytes:
    """`data` with some bytes overwritten."""
    piece = struct.pack(layout, *values)
    return data[:position] + piece + data[position + len(piece) :]


def record_patched(signature: bytes, offset: int, layout: str, *values: Any, zip64: bool = False) -> bytes:
    """The ordinary dataset, with one field of one of its end records overwritten."""
    data = forge(base(), zip64=zip64)
    return patched(data, data.rindex(signature) + offset, layout, *values)


def overlaps() -> dict[str, Case]:
    one_quote = quoted_overlap_bomb(2, PICTURE)
    return {
        "two entries share their data": (with_entry(offset=0), "entries overlap"),
        "a file that is not read shares data": (with_entry(b"notes.bin", offset=0), "entries overlap"),
        "a hundred entries share one kernel": (
            forge([*base(), *[Entry(b"%d.png" % index, PICTURE, offset=0) for index in range(100)]]),
            "entries overlap",
        ),
        "one quoted header": (one_quote, "entries overlap"),
        "a few KB that unpack to 250 MB": (quoted_overlap_bomb(125, PICTURE + bytes(2 * 10**6)), "entries overlap"),
        "an entry that reaches into the directory": (
            forge([*base(), Entry(b"b.png", PICTURE, packed_size=len(PACKED) + 1)]),
            "entries overlap",
        ),
        "an entry that lies in the directory": (with_entry(offset=len(forge(base()))), "entries overlap"),
        "an entry beyond the end": (with_entry(offset=0x7FFFFFFF), "entries overlap"),
        "a local header that pushes its data into the next entry": (
            patched(forge(base()), 28, "<H", 64),
            "overlaps another file",
        ),
    }


def sizes_and_checksums() -> dict[str, Case]:
    swollen = pack(PICTURE + bytes(40_000_000), DEFLATED)
    zeros = PICTURE + bytes(10_000_000)
    wide = struct.pack("<2HQ", 1, 8, 2**63)
    return {
        "size understated by one": (with_entry(size=len(PICTURE) - 1), "more than the archive declares"),
        "size overstated by one": (with_entry(size=len(PICTURE) + 1), "less than the archive declares"),
        "size understated by 40 MB": (with_entry(packed=swollen), "more than the archive declares"),
        "size of nothing": (with_entry(size=0), "more than the archive declares"),
        "packed size understated": (with_entry(packed_size=len(PACKED) - 1), "cut off"),
        "a byte behind the stream": (with_entry(packed=PACKED + b"\0"), "after its end"),
        "many bytes behind the stream": (with_entry(packed=PACKED + bytes(50_000)), "after its end"),
        "a stream that goes on and unpacks to nothing": (
            with_entry(packed=EMPTY_BLOCK * 200_000 + PACKED),
            "more space packed than unpacked",
        ),
        "a wrong checksum": (with_entry(crc=zlib.crc32(PICTURE) ^ 1), "checksum"),
        "a stream that is none": (with_entry(packed=b"\xff" * 40), "damaged"),
        "stored with two sizes": (with_entry(method=STORED, size=len(PICTURE) + 1), "disagree"),
        "expands a thousandfold": (with_entry(data=zeros), "zip bomb"),
        "an image of 257 MiB by declaration": (with_entry(size=257 * 2**20), "more than 268,435,456 bytes"),
        "an image of 2^63 bytes by declaration": (
            with_entry(size=0xFFFFFFFF, central_extra=wide),
            "more than 268,435,456 bytes",
        ),
        "a caption of 65 KB by declaration": (
            forge([Entry(b"a.png", PICTURE), Entry(b"a.txt", b"a caption", size=65 * 1024)]),
            "more than 65,536 bytes",
        ),
        "a promised zip64 field is missing": (with_entry(size=0xFFFFFFFF), "damaged"),
        "a zip64 field cut short": (with_entry(size=0xFFFFFFFF, central_extra=wide[:-1]), "damaged"),
    }


def local_headers() -> dict[str, Case]:
    lies: list[dict[str, Any]] = [
        {"name": b"c.png"},
        {"method": STORED},
        {"flags": 1},
        {"crc": 1},
        {"size": 1},
        {"packed_size": 1},
    ]
    cases = {f"a local header with another {next(iter(lie))}": (with_entry(local=lie), "disagree") for lie in lies}
    return {**cases, "no local header": (b"XX" + forge(base())[2:], "disagree")}


def names() -> dict[str, Case]:
    outside = [
        b"../b.png", b"a/../../b.png", b"x/../a.png", b"a/..", b"/etc/b.png", b"//server/share/b.png",
        b"\\\\server\\share\\b.png", b"..\\b.png", b"a\\..\\..\\b.png", b"\\b.png", b"C:\\b.png", b"c:/b.png",
    ]  # fmt: skip
    control = [b"b\0.png", b"b.png\0.txt", b"b\n.png", b"b\x1b[2J.png", b"b\x7f.png", "b\x85.png".encode()]
    pairs = [
        ("é.png", unicodedata.normalize("NFD", "é.png")),
        ("Straße.png", "STRASSE.png"),
        ("K.png", "\u212a.png"),  # the sign for kelvin
    ]
    twins = [b"a.png", b"A.PNG", b"./a.png", b".\\a.png"]
    return {
        **{f"outside: {name!r}": (with_entry(name), "outside the dataset") for name in outside},
        **{f"control: {name!r}": (with_entry(name), "control characters") for name in control},
        **{f"twin: {name!r}": (with_entry(name), "one file") for name in twins},
        **{
            f"twins: {first} and {second}": (
                forge([*base(), Entry(first.encode(), PICTURE), Entry(second.encode(), PICTURE)]),
                "one file",
            )
            for first, second in pairs
        },
        "not the UTF-8 it claims to be": (with_entry(b"\xff\xfe.png", flags=0x800), "UTF-8"),
        "half of a surrogate pair": (with_entry(b"\xed\xa0\x80.png", flags=0x800), "UTF-8"),
        "no name": (with_entry(b""), "without a name"),
        "a dot for a name": (with_entry(b"."), "without a name"),
        "a name of 1025 bytes": (with_entry(b"n" * 1021 + b".png"), "1025 bytes long"),
        "a name of 60,000 bytes": (with_entry(b"n" * 60_000), "60000 bytes long"),
        "names of five hundred folders": (
            forge([Entry(b"%03d" % index + b"/a" * 500 + b".png", method=STORED) for index in range(300)]),
            "cut off before its size",
        ),
        "names of five hundred numbers": (
            forge([Entry(b"%03d" % index + b"a1" * 500 + b".png", method=STORED) for index in range(300)]),
            "cut off before its size",
        ),
    }


def kinds() -> dict[str, Case]:
    fields = {
        "traditional encryption": ({"flags": 0x1}, "encrypted"),
        "strong encryption": ({"flags": 0x41}, "encrypted"),
        "an encrypted directory": ({"flags": 0x2000}, "encrypted"),
        "a patch": ({"flags": 0x20}, "is not read"),
        "Deflate64": ({"method": DEFLATE64}, "Deflate64"),
        "BZip2": ({"method": 12}, "BZip2"),
        "LZMA": ({"method": 14}, "LZMA"),
        "Zstandard": ({"method": 93}, "Zstandard"),
        "XZ": ({"method": 95}, "XZ"),
        "AES": ({"method": 99}, "AES"),
        "an unknown method": ({"method": 77}, "method 77"),
    }
    return {kind: (with_entry(**lie), words) for kind, (lie, words) in fields.items()}


def comment_with_a_second_directory() -> bytes:
    inner = forge([Entry(b"z.png", PICTURE)])
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0)
    return forge(base(), comment=inner + end)


def directories() -> dict[str, Case]:
    end, end64, locator = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
    return {
        "nothing": (b"", "not a complete zip"),
        "a signature alone": (end, "not a complete zip"),
        "a RAR archive": (b"Rar!\x1a\x07\x00" + bytes(100), "RAR"),
        "a 7z archive": (b"7z\xbc\xaf\x27\x1c" + bytes(100), "7z"),
        "a gzip file": (b"\x1f\x8b" + bytes(100), "gzip"),
        "a picture": (PICTURE, "not a complete zip"),
        "bytes behind": (forge(base()) + b"trailing", "not a complete zip"),
        "bytes before": (b"leading" + forge(base()), "not where its end record says"),
        "two zips in a row": (forge(base()) + forge(base()), "not where its end record says"),
        "a second directory in the comment": (comment_with_a_second_directory(), "more than one directory"),
        "nothing but end records": (end * 16_000, "not a complete zip"),
        "a directory one byte off": (forge(base(), directory_shift=1), "not where"),
        "a directory at 2^32 - 2": (record_patched(end, 16, "<L", 0xFFFFFFFE), "not where"),
        "fewer entries than there are": (forge(base(), count=1), "more than the entries it counts"),
        "more entries than there are": (forge(base(), count=3), "damaged"),
        "65,534 entries by declaration": (forge(base(), count=65_534), "damaged"),
        "another signature in the directory": (
            forge(base(), directory_tail=b"PK\x05\x05"),
            "more than the entries it counts",
        ),
        "a part of several": (forge(base(), disk=1), "multi-part"),
        "entries on another disk": (record_patched(b"PK\x01\x02", 34, "<H", 3), "multi-part"),
        "counts that disagree": (record_patched(end, 8, "<H", 1), "multi-part"),
        "a zip64 record that is none": (record_patched(end64, 0, "<4s", b"PK\x06\x00", zip64=True), "damaged"),
        "a zip64 record of another length": (record_patched(end64, 4, "<Q", 2**63, zip64=True), "damaged"),
        "a zip64 record at 2^63": (record_patched(locator, 8, "<Q", 2**63, zip64=True), "damaged"),
        "a zip64 record on another disk": (record_patched(locator, 4, "<L", 1, zip64=True), "multi-part"),
        "a zip64 directory at 2^64 - 1": (record_patched(end64, 48, "<Q", 2**64 - 1, zip64=True), "not where"),
        "a zip64 directory of 2^63 bytes": (record_patched(end64, 40, "<Q", 2**63, zip64=True), "not where"),
        "2^63 entries in the zip64 record": (
            record_patched(end64, 24, "<2Q", 2**63, 2**63, zip64=True),
            "files, more than 100000",
        ),
        "two end records that disagree": (record_patched(end, 8, "<2H", 1, 1, zip64=True), "disagree"),
    }


MALICIOUS: dict[str, Case] = {
    **overlaps(),
    **sizes_and_checksums(),
    **local_headers(),
    **names(),
    **kinds(),
    **directories(),
}

PASSED_OVER = {
    "a link instead of an image": (Entry(b"b.png", b"/etc/passwd", unix_mode=SYMLINK), "symbolic link"),
    "a link instead of a caption": (Entry(b"a.txt", b"/etc/passwd", unix_mode=SYMLINK), "symbolic link"),
    "a pipe": (Entry(b"b.png", PICTURE, unix_mode=PIPE), "not a regular file"),
    "a socket": (Entry(b"b.png", PICTURE, unix_mode=SOCKET), "not a regular file"),
    "a device": (Entry(b"b.png", PICTURE, unix_mode=BLOCK_DEVICE), "not a regular file"),
    "a zip in the zip": (Entry(b"more.zip", zip_of({"c.png": PICTURE})), "archive inside"),
    "a 7z archive in the zip": (Entry(b"more.7z", b"7z"), "archive inside"),
    "a tar archive in the zip": (Entry(b"more.tar.gz", b"\x1f\x8b"), "archive inside"),
    "a program": (Entry(b"run.exe", b"MZ"), "neither"),
}


def test_the_zip_without_a_lie_is_accepted() -> None:
    dataset = open_dataset(with_entry())
    assert [dataset.read(item) for item in dataset.items] == [PICTURE, PICTURE]


def test_there_are_at_least_64_of_them_and_no_two_are_the_same() -> None:
    assert len({data for data, _ in MALICIOUS.values()}) == len(MALICIOUS) >= 64


@pytest.mark.parametrize("case", MALICIOUS)
def test_a_malicious_zip_is_refused_at_little_cost(case: str) -> None:
    data, words = MALICIOUS[case]
    started = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=words):
            dataset = open_dataset(data, default_caption="x")
            for item in dataset.items:
                dataset.read(item)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < MAX_EXTRA_BYTES
    assert time.perf_counter() - started < MAX_SECONDS


@pytest.mark.parametrize("case", PASSED_OVER)
def test_links_devices_and_inner_archives_are_passed_over_with_a_reason(case: str) -> None:
    entry, words = PASSED_OVER[case]
    dataset = open_dataset(forge([Entry(b"a.png", PICTURE), entry]), default_caption="x")
    assert [(item.name, item.caption) for item in dataset.items] == [("a.png", "x")]
    assert [(skipped.name, words in skipped.reason) for skipped in dataset.skipped] == [(entry.name.decode(), True)]
