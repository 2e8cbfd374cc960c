"""Broken files, pickles and files made to do harm: refused before a tensor is built, in little memory and time."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from foreign_loras import fused_lora
from ideogram4_lora_trainer.trainer_core.errors import LoraMismatch, LoraUnreadable, UserError
from ideogram4_lora_trainer.trainer_core.lora_files import read_lora
from ideogram4_lora_trainer.trainer_core.lora_files.read import MAX_HEADER_BYTES
from safetensors.torch import save_file

MAX_SECONDS = 2.0
MAX_EXTRA_BYTES = 4 * 2**20
MIB = 2**20
SHAPES = {"layers.0.attention.qkv": (24, 8), "layers.0.attention.o": (8, 8), "layers.1.attention.o": (8, 8)}
A_KEY = "diffusion_model.layers.0.attention.o.lora_A.weight"
QKV_KEY = "diffusion_model.layers.0.attention.qkv.lora_A.weight"


def lora(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    return fused_lora("comfy", SHAPES, alpha=4.0)[0] | changes


def refusal(error: type[UserError], path: Path) -> str:
    with pytest.raises(error) as caught:
        read_lora(path)
    assert type(caught.value) is error
    return str(caught.value)


# ---- making them ---------------------------------------------------------------------------------------------


def header_of(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, Any], bytes]:
    """A safetensors file's header as JSON, and its data."""
    content = safetensors.torch.save(tensors)
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def with_header(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry_changed(**values: object) -> bytes:
    header, data = header_of(lora())
    header[A_KEY].update(values)
    return with_header(header, data)


def doubled_key() -> bytes:
    header, data = header_of(lora())
    entry = json.dumps({A_KEY: header[A_KEY]})
    return with_header((json.dumps(header)[:-1] + "," + entry[1:]).encode(), data)


def overlapping() -> bytes:
    header, data = header_of(lora())
    header[A_KEY]["data_offsets"] = header[QKV_KEY]["data_offsets"]
    return with_header(header, data)


def with_gap() -> bytes:
    """64 bytes that belong to no tensor, where something else could hide."""
    header, data = header_of(lora())
    last = max(header, key=lambda key: header[key]["data_offsets"][1])
    begin, end = header[last]["data_offsets"]
    header[last]["data_offsets"] = [begin + 64, end + 64]
    return with_header(header, data[:begin] + bytes(64) + data[begin:])


class Harmful:
    """Pickled, it is a call that a reader of pickles would make."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, ("pickle ran",)


def torch_saved(*, zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2), "b": Harmful()}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def zip_of_pickle() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Harmful()))
    return buffer.getvalue()


def tar_of_pickle() -> bytes:
    """As torch wrote before 2016."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    return buffer.getvalue()


GOOD = safetensors.torch.save(lora())
CONTRADICTS = "contradicts the file"
PICKLES: dict[str, tuple[Callable[[], bytes], str]] = {
    f"pickle of protocol {protocol}": (
        lambda protocol=protocol: pickle.dumps([Harmful(), b"x" * 99], protocol=protocol),
        "pickled PyTorch file" if protocol >= 2 else "not a safetensors file",
    )
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
} | {
    "torch.save, zip": (lambda: torch_saved(zipped=True), "pickled PyTorch file"),
    "torch.save, legacy": (lambda: torch_saved(zipped=False), "pickled PyTorch file"),
    "zip of a pickle": (zip_of_pickle, "pickled PyTorch file"),
    "tar of a pickle": (tar_of_pickle, "not a safetensors file|broken safetensors header"),
}
BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "cut off"),
    "seven bytes": (lambda: GOOD[:7], "cut off"),
    "header cut": (lambda: GOOD[:200], "cut off"),
    "data cut": (lambda: GOOD[:-1], CONTRADICTS),
    "no data": (lambda: GOOD[: 8 + struct.unpack("<Q", GOOD[:8])[0]], CONTRADICTS),
    "bytes appended": (lambda: GOOD + b"\0", "not a valid safetensors file"),
    "bytes in front": (lambda: b"\0" + GOOD, "cut off"),
    "web page": (lambda: b"<!DOCTYPE html><html>Not found</html>", "cut off or is not a safetensors file"),
    "zeros": (lambda: bytes(4096), "broken safetensors header"),
    "huge header": (lambda: with_header(b" " * (MAX_HEADER_BYTES + 1)), "made to do harm"),
    "header of the largest number": (lambda: b"\xff" * 8 + GOOD[8:], "cut off"),
    "header one byte beyond the file": (lambda: struct.pack("<Q", len(GOOD) - 7) + GOOD[8:], "cut off"),
    "header of no bytes": (lambda: with_header(b""), "broken safetensors header"),
    "header of spaces": (lambda: with_header(b" " * 64), "broken safetensors header"),
    "not json": (lambda: with_header(b"{'a': 1}"), "broken safetensors header"),
    "two tables": (lambda: with_header(b"{}{}"), "broken safetensors header"),
    "not utf-8": (lambda: with_header(b'{"\xff": 1}'), "broken safetensors header"),
    "utf-16": (lambda: with_header("{}".encode("utf-16")), "broken safetensors header"),
    "byte order mark": (lambda: with_header(b"\xef\xbb\xbf{}"), "broken safetensors header"),
    "deep lists": (lambda: with_header(b"[" * 200_000), "broken safetensors header"),
    "deep tables": (lambda: with_header(b'{"a":' * 200_000), "broken safetensors header"),
    "long number": (lambda: with_header(b'{"a":' + b"9" * 5000 + b"}"), "broken safetensors header"),
    "a list": (lambda: with_header([]), "broken safetensors header"),
    "null": (lambda: with_header(None), "broken safetensors header"),
    "doubled key": (doubled_key, "occurs twice"),
    "doubled metadata": (lambda: with_header(b'{"__metadata__":{},"__metadata__":{}}'), "occurs twice"),
    "doubled field": (lambda: with_header(b'{"a":{"dtype":"F32","dtype":"F16"}}'), "occurs twice"),
    "metadata of numbers": (lambda: with_header({"__metadata__": {"a": 1}}), "__metadata__ is not text"),
    "metadata of tables": (lambda: with_header({"__metadata__": {"a": {}}}), "__metadata__ is not text"),
    "metadata a list": (lambda: with_header({"__metadata__": []}), "__metadata__ is not text"),
    "entry a number": (lambda: with_header({"a.lora_A.weight": 1}), CONTRADICTS),
    "entry without dtype": (lambda: with_header({"a": {"shape": [], "data_offsets": [0, 0]}}), CONTRADICTS),
    "negative shape": (lambda: entry_changed(shape=[-4, -8]), CONTRADICTS),
    "fractional shape": (lambda: entry_changed(shape=[4.0, 8]), CONTRADICTS),
    "shape of true": (lambda: entry_changed(shape=[True, 32]), CONTRADICTS),
    "shape a text": (lambda: entry_changed(shape="48"), CONTRADICTS),
    "shape too large": (lambda: entry_changed(shape=[2**40, 2**40]), CONTRADICTS),
    "shape that overflows to nothing": (lambda: entry_changed(shape=[2**32, 2**32], data_offsets=[0, 0]), CONTRADICTS),
    "shape that overflows to its size": (lambda: entry_changed(shape=[2**62 + 4, 8]), CONTRADICTS),
    "huge shape of nothing": (lambda: entry_changed(shape=[0, 2**63], data_offsets=[0, 0]), "do not make a LoRA"),
    "shape too small": (lambda: entry_changed(shape=[4, 7]), CONTRADICTS),
    "many dimensions": (lambda: entry_changed(shape=[1] * 500), CONTRADICTS),
    "offsets beyond the end": (lambda: entry_changed(data_offsets=[2**50, 2**50 + 128]), CONTRADICTS),
    "offsets beyond 64 bits": (lambda: entry_changed(data_offsets=[2**64, 2**64 + 128]), CONTRADICTS),
    "offsets negative": (lambda: entry_changed(data_offsets=[-128, 0]), CONTRADICTS),
    "offsets reversed": (lambda: entry_changed(data_offsets=[128, 0]), CONTRADICTS),
    "offsets of nothing": (lambda: entry_changed(data_offsets=[0, 0]), CONTRADICTS),
    "three offsets": (lambda: entry_changed(data_offsets=[0, 64, 128]), CONTRADICTS),
    "overlapping tensors": (overlapping, f"{CONTRADICTS}|not a valid safetensors file"),
    "a gap between tensors": (with_gap, "not a valid safetensors file"),
    "unknown dtype": (lambda: entry_changed(dtype="F4"), "is stored as F4"),
    "dtype not text": (lambda: entry_changed(dtype=["F32"]), CONTRADICTS),
    "dtype of half the size": (lambda: entry_changed(dtype="BF16"), CONTRADICTS),
    "dtype of the same size": (lambda: entry_changed(dtype="I32"), "is stored as int32"),
    "no tensors": (lambda: with_header({}), "is empty"),
}
FILES = PICKLES | BROKEN


def test_there_are_enough_of_them() -> None:
    assert len(PICKLES) >= 9
    assert len({make() for make, _ in FILES.values()}) == len(FILES) >= 60


def test_they_do_harm_where_they_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.load(io.BytesIO(torch_saved(zipped=False)), weights_only=False)
    assert Path("pickle ran").exists()


@pytest.fixture
def no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, whatever builds a tensor or runs a pickle fails the test."""
    really_open = safetensors.safe_open

    def opened(*args: object, **options: object) -> None:
        really_open(*args, **options)  # refuses gaps, overlaps and what is appended, without reading a tensor
        pytest.fail("the file was opened for reading tensors")

    def forbidden(*_args: object, **_options: object) -> None:
        pytest.fail("something was loaded")

    monkeypatch.setattr(safetensors, "safe_open", opened)
    for module, name in ((torch, "load"), (torch, "frombuffer"), (pickle, "load"), (pickle, "loads")):
        monkeypatch.setattr(module, name, forbidden)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["mine.safetensors", "MINE.SafeTensors"])
@pytest.mark.parametrize("case", FILES)
def test_refused_before_a_tensor_is_built(case: str, name: str, tmp_path: Path, no_tensor: None) -> None:
    make, says = FILES[case]
    file = tmp_path / name
    file.write_bytes(make())
    tracemalloc.start()
    started = time.perf_counter()
    try:
        message = refusal(LoraUnreadable, file)
        seconds, (_, peak) = time.perf_counter() - started, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seconds < MAX_SECONDS
    assert peak < MAX_EXTRA_BYTES
    assert re.search(says, message), message
    assert message.startswith(name)
    assert message.endswith(".")
    assert len(message) < 500
    assert str(tmp_path) not in message
    assert not Path("pickle ran").exists()


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.bin", "a.ckpt", "a.pkl", "a", "a.safetensors.pt"])
def test_other_endings_are_not_even_opened(name: str, tmp_path: Path, no_tensor: None) -> None:
    for content in (GOOD, torch_saved(zipped=True)):
        (tmp_path / name).write_bytes(content)
        assert f"{name} is not a .safetensors file" in refusal(LoraUnreadable, tmp_path / name)


@pytest.mark.parametrize("filler", [b"[],", b"{},", b'"",', b"0,"])
def test_memory_is_bounded_by_the_header(filler: bytes, tmp_path: Path, no_tensor: None) -> None:
    """What a parser makes of the worst text is about thirty times as large; the header's limit bounds it."""
    file = tmp_path / "mine.safetensors"
    file.write_bytes(with_header(b'{"a":[' + filler * (MIB // len(filler)) + b"0]}"))
    tracemalloc.start()
    try:
        refusal(LoraUnreadable, file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * MIB


def test_many_keys_of_which_the_last_is_doubled(tmp_path: Path, no_tensor: None) -> None:
    keys = [f'"{number}":0' for number in range(16_000)]
    file = tmp_path / "mine.safetensors"
    file.write_bytes(with_header(f"{{{','.join(keys)},{keys[-1]}}}".encode()))
    started = time.perf_counter()
    assert "occurs twice" in refusal(LoraUnreadable, file)
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize("entry", [1, {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}])
@pytest.mark.parametrize("key", ["k" * MIB, "\u202e\x1b[2Jlayers"])
def test_messages_stay_short_and_printable(key: str, entry: object, tmp_path: Path, no_tensor: None) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes(with_header({key: entry}))
    message = refusal(LoraUnreadable, file)
    assert len(message) < 2000
    assert message.isprintable()


# ---- places --------------------------------------------------------------------------------------------------


def test_wrong_kinds_of_path(tmp_path: Path, no_tensor: None) -> None:
    assert "cannot be read" in refusal(LoraUnreadable, tmp_path / "gone.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    assert "cannot be read" in refusal(LoraUnreadable, tmp_path / "folder.safetensors")
    for name, target in {"circle": "circle", "dangling": "nowhere", "to a folder": "folder"}.items():
        (tmp_path / f"{name}.safetensors").symlink_to(f"{target}.safetensors")
        assert "cannot be read" in refusal(LoraUnreadable, tmp_path / f"{name}.safetensors")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no devices here")
def test_a_link_to_an_endless_device(tmp_path: Path, no_tensor: None) -> None:
    (tmp_path / "mine.safetensors").symlink_to("/dev/zero")
    assert "cut off" in refusal(LoraUnreadable, tmp_path / "mine.safetensors")


def test_a_link_to_a_pickle(tmp_path: Path, no_tensor: None) -> None:
    (tmp_path / "model.pt").write_bytes(torch_saved(zipped=True))
    (tmp_path / "mine.safetensors").symlink_to("model.pt")
    assert "mine.safetensors is a pickled PyTorch file" in refusal(LoraUnreadable, tmp_path / "mine.safetensors")


def test_a_large_model_is_refused_from_its_header(tmp_path: Path, no_tensor: None) -> None:
    """A sparse file of 40 GB: reading its tensors would take minutes and the machine's memory."""
    file = tmp_path / "model.safetensors"
    entry = {"dtype": "F8_E4M3", "shape": [200_000, 200_000], "data_offsets": [0, 40_000_000_000]}
    file.write_bytes(with_header({"layers.0.attention.qkv.weight": entry}))
    with open(file, "r+b") as handle:
        handle.truncate(file.stat().st_size + 40_000_000_000)
    assert "It looks like a full model" in refusal(LoraUnreadable, file)


def test_contents_are_refused_with_the_files_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(lora(**{A_KEY: torch.full((4, 8), torch.inf)}), file)
    assert refusal(LoraUnreadable, file).startswith("mine.safetensors: diffusion_model")
    save_file(fused_lora("comfy", {"double_blocks.0.img_attn.qkv": (8, 8)})[0], file)
    assert refusal(LoraMismatch, file).startswith("mine.safetensors was made for another model")


# ---- what is taken -------------------------------------------------------------------------------------------


def test_the_good_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "GOOD.SAFETENSORS"
    save_file(lora(), file, metadata={"key": "värde"})
    parsed = read_lora(file)
    assert parsed.metadata == {"key": "värde"}
    assert parsed.layout == "comfy"
    kept = parsed.modules["layers.0.attention.o"].down.clone()
    file.write_bytes(bytes(file.stat().st_size))  # what was read must not change with the file
    assert torch.equal(parsed.modules["layers.0.attention.o"].down, kept)


def test_header_size_limit_from_both_sides(tmp_path: Path) -> None:
    header, data = header_of(lora())
    text = json.dumps(header).encode()
    file = tmp_path / "mine.safetensors"
    file.write_bytes(with_header(text.ljust(MAX_HEADER_BYTES), data))
    assert len(read_lora(file).modules) == len(SHAPES)
    file.write_bytes(with_header(text.ljust(MAX_HEADER_BYTES + 1), data))
    assert "header of 16777217 bytes" in refusal(LoraUnreadable, file)
