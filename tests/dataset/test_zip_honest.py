"""Odd zips that honest tools make. All are accepted, and all give the same dataset."""

from __future__ import annotations

import io
import os
import struct
import threading
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from dataset_forge import STORED, Entry, encode, forge, noise, png, zip_of
from ideogram4_lora_trainer.trainer_core.dataset import Dataset, archive, open_dataset
from ideogram4_lora_trainer.trainer_core.errors import DatasetUnreadable

PICTURE = png()
FILES = {"a.png": PICTURE, "a.txt": b"a caption"}


def by_hand(**options: Any) -> list[Entry]:
    return [Entry(name.encode(), data, **options) for name, data in FILES.items()]


def zip_with(**options: Any) -> bytes:
    return forge(by_hand(**options))


def flushed(data: bytes) -> bytes:
    """Deflated by a tool that flushes after every hundred bytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    pieces = (data[start : start + 100] for start in range(0, len(data), 100))
    return b"".join(packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in pieces) + packer.flush()


def streamed_zip() -> bytes:
    """Written to a pipe, as `zip -` does: sizes and checksums follow the data."""

    class Pipe(io.RawIOBase):
        data = b""

        def writable(self) -> bool:
            return True

        def write(self, piece: object) -> int:
            self.data += bytes(piece)
            return len(bytes(piece))

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive_file:
        for name, data in FILES.items():
            archive_file.writestr(name, data)
    return pipe.data


def forced_zip64() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive_file:
        for name, data in FILES.items():
            with archive_file.open(name, "w", force_zip64=True) as handle:
                handle.write(data)
    return buffer.getvalue()


def wide_entry() -> bytes:
    """Sizes and offset in the zip64 field although they are small."""
    data = PICTURE
    first = Entry(b"a.txt", b"a caption")
    offset = len(forge([first])) - 22 - 46 - 5
    extra = struct.pack("<2H3Q", 1, 24, len(data), len(data), offset)
    entry = Entry(
        b"a.png", data, STORED, size=0xFFFFFFFF, packed_size=0xFFFFFFFF, offset=0xFFFFFFFF, central_extra=extra
    )
    return forge([first, entry])


HONEST = {
    "deflated": zip_of(FILES),
    "stored": zip_of(FILES, method=zipfile.ZIP_STORED),
    "by hand": zip_with(),
    "descriptors": zip_with(descriptor=True),
    "no unix mode": zip_with(unix_mode=0),
    "extra fields": zip_with(central_extra=b"UT\x05\x00\x01\0\0\0\0", local_extra=b"UT\x09\x00" + bytes(9)),
    "comment": forge(by_hand(), comment=b"from a tool, PK\x05\x06"),
    "longest comment": forge(by_hand(), comment=b"c" * 0xFFFF),
    "zip64 end": forge(by_hand(), zip64=True),
    "folder entry": forge([Entry(b"x/", b"", STORED, unix_mode=0o040755), *by_hand()]),
    "dot prefix": forge([Entry(b"./" + name.encode(), content) for name, content in FILES.items()]),
    "captions first": forge(by_hand()[::-1]),
    "flushed often": forge([Entry(entry.name, entry.data, packed=flushed(entry.data)) for entry in by_hand()]),
    "streamed": streamed_zip(),
    "zip64 entries": forced_zip64(),
    "zip64 field": wide_entry(),
}


def test_there_are_at_least_12_of_them_and_no_two_are_the_same() -> None:
    assert len(set(HONEST.values())) == len(HONEST) >= 12


@pytest.mark.parametrize("data", HONEST.values(), ids=HONEST)
def test_an_odd_but_honest_zip_is_accepted(data: bytes) -> None:
    dataset = open_dataset(data)
    assert [(item.name, item.caption, item.width, item.height) for item in dataset.items] == [
        ("a.png", "a caption", 32, 24)
    ]
    assert dataset.read(dataset.items[0]) == PICTURE
    assert dataset.skipped == ()


def test_a_zip_made_on_a_mac_is_accepted_and_its_twins_are_skipped() -> None:
    """Names in UTF-8 without the flag, decomposed; a hidden twin of every file; the Finder's notes."""
    taken_apart = "cafe\u0301.png".encode()
    entries = [
        Entry(b"set/", b"", STORED, unix_mode=0o040755),
        Entry(b"set/" + taken_apart, PICTURE, descriptor=True),
        Entry(b"__MACOSX/set/._" + taken_apart, bytes(120), descriptor=True),
        Entry(b"set/.DS_Store", bytes(6148), descriptor=True),
        Entry("set/caf\u00e9.txt".encode(), b"a caption", descriptor=True),
    ]
    dataset = open_dataset(forge(entries))
    assert [(item.name, item.caption) for item in dataset.items] == [("set/caf\u00e9.png", "a caption")]
    assert {skipped.reason for skipped in dataset.skipped} == {"hidden or system file"}
    assert len(dataset.skipped) == 2


def test_backslashes_of_old_windows_tools_part_folders() -> None:
    dataset = open_dataset(forge([Entry(b"set\\a.png", PICTURE), Entry(b"set\\a.txt", b"a caption")]))
    assert [(item.name, item.caption) for item in dataset.items] == [("set/a.png", "a caption")]


def test_names_in_the_code_page_of_dos_still_find_their_captions() -> None:
    name = "f\u00fcr".encode("cp437")
    dataset = open_dataset(forge([Entry(name + b".png", PICTURE), Entry(name + b".txt", b"a caption")]))
    assert [(item.name, item.caption) for item in dataset.items] == [("f\u00fcr.png", "a caption")]


def test_large_files_are_read_whole_and_by_several_threads(tmp_path: Path) -> None:
    pictures = {f"{index}.png": encode(noise(400, 300, index)) for index in range(6)}
    (tmp_path / "set.zip").write_bytes(zip_of(pictures))
    dataset = open_dataset(tmp_path / "set.zip", default_caption="x")
    wrong: list[str] = []

    def read_all() -> None:
        wrong.extend(item.name for item in dataset.items * 5 if dataset.read(item) != pictures[item.name])

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files as Linux shows them")
def test_no_file_stays_open(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(zip_of({"a.png": encode(noise(300, 300)), "a.txt": "x"}))
    before = len(os.listdir("/proc/self/fd"))
    dataset = open_dataset(tmp_path / "set.zip")
    dataset.read(dataset.items[0])
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_zip_that_changed_or_went_away_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"

    def opened() -> Dataset:
        path.write_bytes(zip_of(FILES))
        return open_dataset(path)

    dataset = opened()
    path.write_bytes(zip_of({"b.txt": "first", "a.png": png(seed=5), "a.txt": "x"}))
    with pytest.raises(DatasetUnreadable, match=r"set\.zip"):
        dataset.read(dataset.items[0])
    dataset = opened()
    path.unlink()
    with pytest.raises(DatasetUnreadable, match=r"set\.zip"):
        dataset.read(dataset.items[0])


def test_opening_reads_no_more_of_an_image_than_its_header_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = encode(noise(900, 900))
    path = tmp_path / "set.zip"
    path.write_bytes(zip_of({"a.png": picture}))
    assert len(picture) > 2_000_000
    taken = 0
    real = archive._packed_chunks

    def counted(handle: object, remaining: int) -> object:
        nonlocal taken
        for chunk in real(handle, remaining):
            taken += len(chunk)
            yield chunk

    monkeypatch.setattr(archive, "_packed_chunks", counted)
    assert open_dataset(path, default_caption="x").items[0].width == 900
    assert 0 < taken <= 4096
