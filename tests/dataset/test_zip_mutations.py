"""2,000 damaged zips: each gives a message for the user or a dataset of the bytes that were there, soon."""

from __future__ import annotations

import random
import struct
import time
from collections import Counter
from collections.abc import Callable, Container

import pytest
from dataset_forge import STORED, Entry, encode, exif, forge, noise, png, zip_of
from ideogram4_lora_trainer.trainer_core.dataset import decode_image, open_dataset, report
from ideogram4_lora_trainer.trainer_core.errors import UserError

COUNT = 2000
MAX_SECONDS_EACH = 2.0
MAX_SECONDS = 60.0

FILES = {
    "set/a.png": png(),
    "set/a.txt": b"a caption",
    "set/b.jpg": encode(noise(40, 32, 1), "JPEG", exif=exif(6)),
    "set/b.txt": b'{"compositional_deconstruction":{"background":"b","elements":[]}}',
    "c.webp": encode(noise(20, 20, 2), "WEBP"),
    "readme.md": b"not used",
}
ENTRIES = [Entry(name.encode(), data) for name, data in FILES.items()]
HONEST = (
    zip_of(FILES),
    forge(ENTRIES, comment=b"made by hand"),
    forge(ENTRIES, zip64=True),
    forge([Entry(entry.name, entry.data, STORED) for entry in ENTRIES]),
    forge([Entry(entry.name, entry.data, descriptor=True) for entry in ENTRIES]),
)

Mutation = Callable[[random.Random, bytearray], None]
SIGNATURES = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x07\x08")
VALUES = {"<H": (0, 1, 8, 0x7FFF, 0xFFFE, 0xFFFF), "<L": (0, 1, 2**20, 2**31, 2**32 - 2, 2**32 - 1)}


def flip_bits(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite_bytes(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.choice((0, 0xFF, rng.randrange(256)))


def cut_off(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def cut_out(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.randint(1, 64)]


def double_a_piece(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data))
    data[start:start] = data[start : start + rng.randint(1, 200)]


def splice(rng: random.Random, data: bytearray) -> None:
    """The start of one zip and the end of another, or of the same."""
    other = rng.choice(HONEST)
    data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]


def overwrite_a_field(rng: random.Random, data: bytearray) -> None:
    """An aligned field of some header gets a value that programs stumble over."""
    layout, values = rng.choice(tuple(VALUES.items()))
    for _ in range(rng.randint(1, 2)):
        start = data.find(rng.choice(SIGNATURES), rng.randrange(len(data)))
        position = max(start, 0) + 2 * rng.randrange(2, 23)
        size = struct.calcsize(layout)
        if position + size <= len(data):
            data[position : position + size] = struct.pack(layout, rng.choice(values))


def rename(rng: random.Random, data: bytearray) -> None:
    """Everywhere a name, or part of one, becomes another of the same length."""
    old, new = rng.choice(((b".png", b".txt"), (b"set/a", b"../aa"), (b"set/b", b"set/a"), (b".txt", b".zip")))
    data[:] = bytes(data).replace(old, new)
    if rng.random() < 0.5:
        flip_bits(rng, data)


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    overwrite_bytes,
    cut_off,
    cut_out,
    double_a_piece,
    splice,
    overwrite_a_field,
    rename,
)


@pytest.mark.parametrize("data", HONEST)
def test_the_zips_are_accepted_before_they_are_damaged(data: bytes) -> None:
    dataset = open_dataset(data, default_caption="x")
    assert [dataset.read(item) for item in dataset.items] == [FILES[item.name] for item in dataset.items]
    assert len(dataset.items) == 3


def use(data: bytes, originals: Container[bytes]) -> str:
    """Do with a zip what a run does up to training. Whatever its checksum lets through is one of `originals`."""
    try:
        dataset = open_dataset(data, default_caption="x")
        report(dataset)
        for item in dataset.items:
            contents = dataset.read(item)
            assert contents in originals
            assert decode_image(contents, item.name).size == (item.width, item.height)
    except UserError as error:
        assert len(str(error)) > 20
        return "refused"
    return "accepted"


def test_two_thousand_damaged_zips_give_a_message_or_a_dataset() -> None:
    rng = random.Random(7)
    verdicts: Counter[tuple[str, str]] = Counter()
    started = time.perf_counter()
    for index in range(COUNT):
        data = bytearray(rng.choice(HONEST))
        mutate = MUTATIONS[index % len(MUTATIONS)]
        mutate(rng, data)
        began = time.perf_counter()
        verdicts[mutate.__name__, use(bytes(data), FILES.values())] += 1
        assert time.perf_counter() - began < MAX_SECONDS_EACH
    assert time.perf_counter() - started < MAX_SECONDS
    assert verdicts.total() == COUNT == 2000
    assert all(verdicts[mutate.__name__, "refused"] for mutate in MUTATIONS)
    assert sum(verdicts[mutate.__name__, "accepted"] for mutate in MUTATIONS) > COUNT // 40


def test_zips_of_damaged_pictures_and_captions_give_a_message_or_a_dataset() -> None:
    """The archive itself is sound, so the damage reaches the decoders."""
    rng = random.Random(8)
    verdicts: Counter[str] = Counter()
    for index in range(600):
        files = dict(FILES)
        name = rng.choice([name for name in files if name != "readme.md"])
        data = bytearray(files[name])
        MUTATIONS[index % 5](rng, data)
        files[name] = bytes(data)
        began = time.perf_counter()
        verdicts[use(zip_of(files), files.values())] += 1
        assert time.perf_counter() - began < MAX_SECONDS_EACH
    assert verdicts["refused"] > 60 and verdicts["accepted"] > 60
