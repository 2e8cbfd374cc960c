"""Zips that lie. Each is an ordinary dataset but for its one lie, and is refused for that lie, in words."""

from __future__ import annotations

import random
import struct
import tracemalloc
import unicodedata
import zlib

import pytest
from dataset_forge import (
    DEFLATE64,
    DEFLATED,
    PIPE,
    STORED,
    SYMLINK,
    Entry,
    forge,
    pack,
    png,
    zip_of,
)
from ideogram4_lora_trainer.trainer_core.dataset import archive, open_dataset, opening, zip_directory
from ideogram4_lora_trainer.trainer_core.dataset import dataset as dataset_module
from ideogram4_lora_trainer.trainer_core.errors import DatasetUnreadable, NoImagesFound, UserError

PICTURE = png()


def base() -> list[Entry]:
    return [Entry(b"a.png", PICTURE), Entry(b"a.txt", b"a caption")]


def named(name: bytes, **fields: object) -> list[Entry]:
    return [*base(), Entry(name, PICTURE, **fields), Entry(b"b.txt", b"another")]


def refused(data: bytes, words: str) -> None:
    """Opening or reading every image fails, with these words."""
    with pytest.raises(DatasetUnreadable, match=words):
        dataset = open_dataset(data, default_caption="x")
        for item in dataset.items:
            dataset.read(item)


def test_the_zip_without_a_lie_is_accepted() -> None:
    dataset = open_dataset(forge(named(b"b.png")))
    assert [dataset.read(item) for item in dataset.items] == [PICTURE, PICTURE]


# ---- entries that overlap ------------------------------------------------------------------------------------


def test_entries_that_share_their_data_are_refused() -> None:
    refused(forge(named(b"b.png", offset=0)), "entries overlap")


def test_overlaps_are_refused_even_among_files_that_are_not_read() -> None:
    refused(forge(named(b"notes.bin", offset=0)), "entries overlap")


def test_a_bomb_that_quotes_headers_is_refused() -> None:
    """Fifield's construction: the first entry's deflate stream quotes the second's header and runs on into its data."""
    inner = forge([Entry(b"b.png", PICTURE)])
    header = inner[: 30 + len(b"b.png")]
    quote = struct.pack("<BHH", 0, len(header), len(header) ^ 0xFFFF)
    outer = Entry(
        b"a.png",
        header + PICTURE,
        packed=quote,
        packed_size=len(quote) + len(header) + len(pack(PICTURE, DEFLATED)),
    )
    refused(forge([outer, Entry(b"b.png", PICTURE)]), "entries overlap")


def test_a_local_header_that_pushes_its_data_into_the_next_entry_is_refused() -> None:
    data = bytearray(forge(base()))
    data[28:30] = struct.pack("<H", 64)  # length of the first local header's extra field
    refused(bytes(data), "overlaps another file")


# ---- sizes and checksums -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ({"size": len(PICTURE) - 1}, "more than the archive declares"),
        ({"size": len(PICTURE) + 1}, "less than the archive declares"),
        ({"packed_size": len(pack(PICTURE, DEFLATED)) - 1}, "cut off"),
        ({"packed": pack(PICTURE, DEFLATED) + b"\0"}, "after its end"),
        ({"packed": pack(PICTURE, DEFLATED) + bytes(300_000)}, "after its end"),
        ({"crc": zlib.crc32(PICTURE) ^ 1}, "checksum"),
        ({"packed": b"\xff" * 40}, "damaged"),
        ({"method": STORED, "size": len(PICTURE) + 1}, "disagree"),
    ],
)
def test_sizes_and_checksums_that_are_not_true_are_refused(lie: dict[str, object], words: str) -> None:
    refused(forge(named(b"b.png", **lie)), words)


@pytest.mark.parametrize(
    "local",
    [
        {"name": b"c.png"},
        {"method": STORED},
        {"flags": 1},
        {"crc": 1},
        {"size": 1},
        {"packed_size": 1},
    ],
    ids=lambda local: next(iter(local)),
)
def test_a_local_header_that_contradicts_the_directory_is_refused(local: dict[str, object]) -> None:
    refused(forge(named(b"b.png", local=local)), "disagree")


def test_a_directory_that_leads_to_no_local_header_is_refused() -> None:
    data = forge(base())
    refused(b"XX" + data[2:], "disagree")


def test_expansion_is_limited_from_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    swollen = PICTURE + bytes(3 * 2**20)
    ratio = len(swollen) / len(pack(swollen, DEFLATED))
    data = forge([Entry(b"a.png", swollen)])
    monkeypatch.setattr(archive, "MAX_RATIO", int(ratio))
    refused(data, "zip bomb")
    monkeypatch.setattr(archive, "MAX_RATIO", int(ratio) + 1)
    dataset = open_dataset(data, default_caption="x")
    assert dataset.read(dataset.items[0]) == swollen


def test_a_lie_about_the_size_costs_no_memory() -> None:
    """40 MB of zeros behind a picture, declared as the picture alone: reading stops where the lie is found."""
    data = forge([Entry(b"a.png", PICTURE, packed=pack(PICTURE + bytes(40_000_000), DEFLATED))])
    tracemalloc.start()
    try:
        refused(data, "more than the archive declares")
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1_000_000


def test_small_files_may_expand_as_they_like() -> None:
    flat = PICTURE + bytes(archive.RATIO_FREE_BYTES - len(PICTURE))
    assert len(flat) / len(pack(flat, DEFLATED)) > archive.MAX_RATIO
    dataset = open_dataset(forge([Entry(b"a.png", flat)]), default_caption="x")
    assert dataset.read(dataset.items[0]) == flat
    refused(forge([Entry(b"a.png", flat + b"\0")]), "zip bomb")


# ---- limits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "limit", "value", "words"),
    [
        (zip_directory, "MAX_ARCHIVE_BYTES", len(forge(base())), "it is larger than"),
        (zip_directory, "MAX_ENTRIES", 2, "lists 2 files, more than 1"),
        (zip_directory, "MAX_DIRECTORY_BYTES", 2 * 46 + 10, "directory is larger"),
        (opening, "MAX_IMAGE_BYTES", len(PICTURE), r"a\.png has more than"),
        (opening, "MAX_TOTAL_BYTES", len(PICTURE), "of images"),
        (opening, "MAX_CAPTION_BYTES", len(b"a caption"), r"a\.txt has more than"),
        (opening, "MAX_CAPTIONS_BYTES", len(b"a caption"), "of captions"),
    ],
)
def test_limits_from_both_sides(
    monkeypatch: pytest.MonkeyPatch, module: object, limit: str, value: int, words: str
) -> None:
    monkeypatch.setattr(module, limit, value)
    assert len(open_dataset(forge(base())).items) == 1
    monkeypatch.setattr(module, limit, value - 1)
    refused(forge(base()), words)


def test_reading_is_limited_as_well_as_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(forge(base()))
    monkeypatch.setattr(dataset_module, "MAX_IMAGE_BYTES", len(PICTURE) - 1)
    with pytest.raises(DatasetUnreadable, match="more than"):
        dataset.read(dataset.items[0])


def test_listing_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "LISTING_TIMEOUT_S", -1)
    refused(forge(base()), "takes more than")


@pytest.mark.parametrize(("length", "accepted"), [(1024, True), (1025, False)])
def test_length_of_names_from_both_sides(length: int, accepted: bool) -> None:
    name = b"n" * (length - 4) + b".png"
    data = forge([Entry(name, PICTURE)])
    if accepted:
        assert open_dataset(data, default_caption="x").items[0].name == name.decode()
    else:
        refused(data, "1025 bytes long")


# ---- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        b"../b.png",
        b"a/../../b.png",
        b"a/..",
        b"/etc/b.png",
        b"\\\\server\\share\\b.png",
        b"..\\b.png",
        b"C:\\b.png",
        b"c:/b.png",
    ],
)
def test_names_that_point_outside_are_refused(name: bytes) -> None:
    refused(forge(named(name)), "outside the dataset")


@pytest.mark.parametrize("name", [b"b\0.png", b"b\n.png", b"b\x1b[2J.png", b"b\x7f.png", "b\x85.png".encode()])
def test_names_with_control_characters_are_refused(name: bytes) -> None:
    refused(forge(named(name)), "control characters")


def test_a_name_that_is_not_the_utf8_it_claims_to_be_is_refused() -> None:
    refused(forge(named(b"\xff\xfe.png", flags=0x800)), "UTF-8")


@pytest.mark.parametrize("name", [b"", b"."])
def test_a_file_without_a_name_is_refused(name: bytes) -> None:
    refused(forge(named(name)), "without a name")


@pytest.mark.parametrize("name", [b"a.png", b"A.PNG", b"./a.png", b".\\a.png"])
def test_names_that_are_one_file_to_most_systems_are_refused(name: bytes) -> None:
    refused(forge(named(name)), "one file")


def test_names_that_differ_only_in_unicode_normalisation_are_refused() -> None:
    composed, taken_apart = (unicodedata.normalize(form, "é.png").encode() for form in ("NFC", "NFD"))
    assert composed != taken_apart
    refused(forge([*base(), Entry(composed, PICTURE), Entry(taken_apart, PICTURE)]), "one file")


# ---- what kind of entry --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"flags": 0x1}, "encrypted"),
        ({"flags": 0x41}, "encrypted"),
        ({"flags": 0x2000}, "encrypted"),
        ({"method": DEFLATE64}, "Deflate64"),
        ({"method": 12}, "BZip2"),
        ({"method": 14}, "LZMA"),
        ({"method": 93}, "Zstandard"),
        ({"method": 99}, "AES"),
        ({"method": 77}, "method 77"),
        ({"flags": 0x20}, "is not read"),
    ],
)
def test_encryption_and_rare_compression_are_refused_by_name(fields: dict[str, int], words: str) -> None:
    refused(forge(named(b"b.png", **fields)), words)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (Entry(b"b.png", b"/etc/passwd", unix_mode=SYMLINK), "symbolic link"),
        (Entry(b"a.txt", b"/etc/passwd", unix_mode=SYMLINK), "symbolic link"),
        (Entry(b"b.png", PICTURE, unix_mode=PIPE), "not a regular file"),
        (Entry(b"more.zip", zip_of({"c.png": PICTURE})), "archive inside"),
        (Entry(b"more.7z", b"7z"), "archive inside"),
    ],
)
def test_links_devices_and_inner_archives_are_skipped_with_a_reason(entry: Entry, words: str) -> None:
    dataset = open_dataset(forge([Entry(b"a.png", PICTURE), entry]), default_caption="x")
    assert [item.name for item in dataset.items] == ["a.png"]
    assert dataset.items[0].caption == "x"
    assert [(skipped.name, words in skipped.reason) for skipped in dataset.skipped] == [(entry.name.decode(), True)]


def test_links_alone_are_no_dataset() -> None:
    with pytest.raises(NoImagesFound, match=r"b\.png \(symbolic link"):
        open_dataset(forge([Entry(b"b.png", b"x", unix_mode=SYMLINK)]))


# ---- directories ---------------------------------------------------------------------------------------------


def comment_with_a_second_directory() -> bytes:
    inner = forge([Entry(b"z.png", PICTURE)])
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0)
    return forge(base(), comment=inner + end)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a complete zip"),
        (b"PK\x05\x06", "not a complete zip"),
        (b"Rar!\x1a\x07\x00" + bytes(100), "RAR"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(100), "7z"),
        (b"\x1f\x8b" + bytes(100), "gzip"),
        (PICTURE, "not a complete zip"),
        (forge(base()) + b"trailing", "not a complete zip"),
        (b"leading" + forge(base()), "not where its end record says"),
        (forge(base()) + forge(base()), "not where its end record says"),
        (comment_with_a_second_directory(), "more than one directory"),
        (forge(base(), directory_shift=1), "not where"),
        (forge(base(), count=1), "more than the entries it counts"),
        (forge(base(), count=3), "damaged"),
        (forge(base(), directory_tail=b"PK\x05\x05"), "more than the entries it counts"),
        (forge(base(), disk=1), "multi-part"),
        (forge(base(), zip64=True).replace(b"PK\x06\x06", b"PK\x06\x00"), "damaged"),
    ],
)
def test_directories_that_do_not_add_up_are_refused(data: bytes, words: str) -> None:
    refused(data, words)


def test_two_end_records_that_disagree_are_refused() -> None:
    data = bytearray(forge(base(), zip64=True))
    end = data.rfind(b"PK\x05\x06")
    data[end + 8 : end + 12] = struct.pack("<2H", 1, 1)
    refused(bytes(data), "disagree")


def test_a_zip64_field_that_is_promised_and_missing_is_refused() -> None:
    refused(forge(named(b"b.png", size=0xFFFFFFFF)), "damaged")


def test_every_truncation_is_refused() -> None:
    data = forge(named(b"b.png"), comment=b"made by hand")
    for length in range(len(data)):
        refused(data[:length], "damaged|directory")


def test_damage_anywhere_gives_a_message_or_the_same_dataset() -> None:
    """600 zips with one to four bytes changed: an error for the user, or every byte as it was."""
    rng = random.Random(7)
    honest = forge(named(b"b.png"))
    verdicts = set()
    for _ in range(600):
        data = bytearray(honest)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            dataset = open_dataset(bytes(data), default_caption="x")
            contents = {dataset.read(item) for item in dataset.items}
        except UserError:
            verdicts.add("refused")
        else:
            assert contents == {PICTURE}
            verdicts.add("accepted")
    assert verdicts == {"refused", "accepted"}
