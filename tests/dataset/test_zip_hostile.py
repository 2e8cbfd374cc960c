"""The limits of a zip from both sides. Whole archives that lie are in `test_zip_malicious.py`."""

from __future__ import annotations

import pytest
from dataset_forge import DEFLATED, SYMLINK, Entry, forge, pack, png
from ideogram4_lora_trainer.trainer_core.dataset import archive, open_dataset, opening, zip_directory
from ideogram4_lora_trainer.trainer_core.dataset import dataset as dataset_module
from ideogram4_lora_trainer.trainer_core.errors import DatasetUnreadable, NoImagesFound

PICTURE = png()
EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"  # a piece of a deflate stream that unpacks to nothing


def base() -> list[Entry]:
    return [Entry(b"a.png", PICTURE), Entry(b"a.txt", b"a caption")]


def refused(data: bytes, words: str) -> None:
    """Opening or reading every image fails, with these words."""
    with pytest.raises(DatasetUnreadable, match=words):
        dataset = open_dataset(data, default_caption="x")
        for item in dataset.items:
            dataset.read(item)


# ---- expansion -----------------------------------------------------------------------------------------------


def test_expansion_is_limited_from_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    swollen = PICTURE + bytes(3 * 2**20)
    ratio = len(swollen) / len(pack(swollen, DEFLATED))
    data = forge([Entry(b"a.png", swollen)])
    monkeypatch.setattr(archive, "MAX_RATIO", int(ratio))
    refused(data, "zip bomb")
    monkeypatch.setattr(archive, "MAX_RATIO", int(ratio) + 1)
    dataset = open_dataset(data, default_caption="x")
    assert dataset.read(dataset.items[0]) == swollen


def test_small_files_may_expand_as_they_like() -> None:
    flat = PICTURE + bytes(archive.RATIO_FREE_BYTES - len(PICTURE))
    assert len(flat) / len(pack(flat, DEFLATED)) > archive.MAX_RATIO
    dataset = open_dataset(forge([Entry(b"a.png", flat)]), default_caption="x")
    assert dataset.read(dataset.items[0]) == flat
    refused(forge([Entry(b"a.png", flat + b"\0")]), "zip bomb")


def test_packing_at_a_loss_is_limited_from_both_sides() -> None:
    """Tools that flush often write empty blocks; a stream of nothing but them must not keep us busy."""
    spare_bytes = archive.MAX_PACKING_LOSS * len(PICTURE) + 2**16 - len(pack(PICTURE, DEFLATED))
    blocks, rest = divmod(spare_bytes, len(EMPTY_BLOCK))
    longest = EMPTY_BLOCK * blocks + pack(PICTURE, DEFLATED)
    dataset = open_dataset(forge([Entry(b"a.png", PICTURE, packed=longest)]), default_caption="x")
    assert dataset.read(dataset.items[0]) == PICTURE and rest < len(EMPTY_BLOCK)
    refused(forge([Entry(b"a.png", PICTURE, packed=EMPTY_BLOCK + longest)]), "more space packed than unpacked")


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


@pytest.mark.parametrize("slow", ["a.txt", "a.png"])
def test_listing_has_a_deadline_for_captions_and_images(monkeypatch: pytest.MonkeyPatch, slow: str) -> None:
    clock = [0.0]
    real = archive.ZipContainer.chunks

    def chunks(container: archive.ZipContainer, name: str) -> object:
        clock[0] += opening.LISTING_TIMEOUT_S + 1 if name.endswith(slow) else 0
        return real(container, name)

    monkeypatch.setattr(opening.time, "monotonic", lambda: clock[0])
    files = forge([*base(), Entry(b"b.png", PICTURE), Entry(b"b.txt", b"another")])
    assert len(open_dataset(files).items) == 2
    monkeypatch.setattr(archive.ZipContainer, "chunks", chunks)
    refused(files, "takes more than")


@pytest.mark.parametrize(("length", "accepted"), [(1024, True), (1025, False)])
def test_length_of_names_from_both_sides(length: int, accepted: bool) -> None:
    name = b"n" * (length - 4) + b".png"
    data = forge([Entry(name, PICTURE)])
    if accepted:
        assert open_dataset(data, default_caption="x").items[0].name == name.decode()
    else:
        refused(data, "1025 bytes long")


# ---- as a whole -------------------------------------------------------------------------------------------


def test_links_alone_are_no_dataset() -> None:
    with pytest.raises(NoImagesFound, match=r"b\.png \(symbolic link"):
        open_dataset(forge([Entry(b"b.png", b"x", unix_mode=SYMLINK)]))


def test_every_truncation_is_refused() -> None:
    data = forge([*base(), Entry(b"b.png", PICTURE)], comment=b"made by hand")
    for length in range(len(data)):
        refused(data[:length], "damaged|directory")
