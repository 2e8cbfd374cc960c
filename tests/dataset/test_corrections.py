"""Captions corrected beside a dataset: applied where they belong, kept where they do not, and never silently wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dataset_forge import png, zip_of
from ideogram4_lora_trainer.trainer_core.dataset import Dataset, open_dataset, report
from ideogram4_lora_trainer.trainer_core.dataset.corrections import (
    MAX_FILE_BYTES,
    caption_hash,
    correct,
    corrections_path,
)
from ideogram4_lora_trainer.trainer_core.dataset.library import corrections_stamp, data_stamp, list_datasets
from ideogram4_lora_trainer.trainer_core.errors import DatasetUnreadable, MissingCaptions, SaveFailed, SettingsError

FILES: dict[str, Any] = {"set/a.png": png(seed=1), "set/a.txt": "one", "set/b.png": png(seed=2)}


@pytest.fixture(params=["zip", "folder"])
def make(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Path]:
    """Write a dataset as a zip or as a folder, over the one that is there."""

    def write(files: dict[str, Any] = FILES) -> Path:
        if request.param == "zip":
            (tmp_path / "pets.zip").write_bytes(zip_of(files))
            return tmp_path / "pets.zip"
        for name, data in files.items():
            path = tmp_path / "pets" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return tmp_path / "pets"

    return write


def look(path: Path) -> Dataset:
    return open_dataset(path, require_captions=False)


def corrected(path: Path, index: int, text: str | None) -> None:
    dataset = look(path)
    correct(path, dataset, dataset.items[index], text)


def sources(dataset: Dataset) -> list[tuple[str, str, str]]:
    return [(item.caption, item.caption_source, item.original_caption) for item in dataset.items]


def test_a_correction_is_applied_wherever_the_dataset_is_opened(make: Callable[..., Path]) -> None:
    path = make()
    with pytest.raises(MissingCaptions):
        open_dataset(path)
    corrected(path, 0, "uno")
    corrected(path, 1, "due\n")
    assert sources(open_dataset(path)) == [("uno", "corrected", "one"), ("due", "corrected", "")]
    assert sources(open_dataset(path, default_caption="x")) == sources(open_dataset(path))
    forced = open_dataset(path, default_caption="x", force_default_caption=True)
    assert sources(forced) == [("x", "forced", "")] * 2
    assert "2 corrected in ComfyUI" in report(open_dataset(path))


def test_a_dataset_without_captions_can_be_looked_at(make: Callable[..., Path]) -> None:
    path = make()
    assert sources(look(path)) == [("one", "file", ""), ("", "missing", "")]
    assert "1 without any" in report(look(path))
    with pytest.raises(MissingCaptions, match=r"set/b\.png"):
        open_dataset(path)


def test_taken_back(make: Callable[..., Path]) -> None:
    path = make()
    corrected(path, 0, "uno")
    corrected(path, 0, "due")
    assert sources(look(path))[0] == ("due", "corrected", "one")
    corrected(path, 0, None)
    assert sources(look(path))[0] == ("one", "file", "")
    assert not corrections_path(path).exists()
    corrected(path, 0, None)
    corrected(path, 0, "one")
    assert not corrections_path(path).exists()


def test_a_correction_belongs_to_the_caption_that_it_was_made_for(make: Callable[..., Path]) -> None:
    path = make()
    corrected(path, 0, "uno")
    make({**FILES, "set/a.txt": "another"})
    dataset = open_dataset(path, default_caption="x")
    assert sources(dataset)[0] == ("another", "file", "")
    (warning,) = dataset.warnings
    assert "set/a.png" in warning and corrections_path(path).name in warning
    assert warning in report(dataset)
    corrected(path, 1, "due")  # what is passed over is kept
    make()
    assert sources(open_dataset(path)) == [("uno", "corrected", "one"), ("due", "corrected", "")]


def test_without_a_caption_it_belongs_to_the_image(make: Callable[..., Path]) -> None:
    path = make()
    corrected(path, 1, "due")
    make({**FILES, "set/b.png": png(40, 40, seed=3)})
    assert sources(look(path))[1] == ("", "missing", "")
    assert look(path).warnings
    make({**FILES, "set/b.txt": "  \n"})  # white space is no caption
    assert sources(look(path))[1] == ("due", "corrected", "")


def test_an_image_that_is_retouched_keeps_its_correction(make: Callable[..., Path]) -> None:
    path = make()
    corrected(path, 0, "uno")
    make({**FILES, "set/a.png": png(40, 40, seed=3)})
    assert sources(look(path))[0] == ("uno", "corrected", "one")


def test_an_image_that_is_gone(make: Callable[..., Path], tmp_path: Path) -> None:
    path = make({**FILES, "set/c.png": png(seed=3)})
    corrected(path, 2, "tre")
    if path.is_dir():
        (path / "set" / "c.png").unlink()
    else:
        make()
    dataset = look(path)
    assert len(dataset.items) == 2 and "set/c.png" in dataset.warnings[0]


def test_the_stamps_tell_what_has_changed(make: Callable[..., Path]) -> None:
    path = make()
    before = data_stamp(path), corrections_stamp(path)
    corrected(path, 0, "uno")
    after = data_stamp(path), corrections_stamp(path)
    assert before[0] == after[0] and before[1] != after[1]


def test_the_file_is_no_dataset_and_disturbs_none(tmp_path: Path) -> None:
    inner, outer = tmp_path / "outer" / "inner", tmp_path / "outer"
    inner.mkdir(parents=True)
    for folder in (inner, outer):
        (folder / "a.png").write_bytes(png())
        (folder / "a.txt").write_text("one")
    corrected(inner, 0, "uno")
    assert list_datasets(tmp_path) == ["outer", "outer/inner"]
    dataset = open_dataset(outer)
    assert [item.caption for item in dataset.items] == ["one", "one"]  # it is the inner one's, seen from there
    assert [(s.name, s.reason) for s in dataset.skipped] == [
        ("inner.captions.json", "corrected captions of another dataset")
    ]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_to_a_dataset_has_the_corrections_of_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real.zip").write_bytes(zip_of(FILES))
    (tmp_path / "link.zip").symlink_to("real.zip")
    corrected(tmp_path / "link.zip", 0, "uno")
    assert look(tmp_path / "real.zip").items[0].caption == "uno"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.zip", "real.zip", "real.zip.captions.json"]


# ---- hostile files --------------------------------------------------------------------------------------------


def file_of(**entry: Any) -> bytes:
    whole = {"caption": "uno", "replaces": caption_hash("one"), "image_bytes": 1, **entry}
    return json.dumps({"ideogram4_lora_trainer": "captions", "version": 1, "captions": {"set/a.png": whole}}).encode()


def whole_of(captions: Any, **more: Any) -> bytes:
    return json.dumps({"ideogram4_lora_trainer": "captions", "version": 1, "captions": captions, **more}).encode()


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"hello",
    "cut off": file_of()[:-5],
    "not UTF-8": b'{"ideogram4_lora_trainer": "\xff"}',
    "a list": b"[1]",
    "a number": b"1",
    "another file": b'{"captions": {}}',
    "newer": whole_of({}, version=2),
    "version of another type": whole_of({}, version=[1]),
    "captions are a list": whole_of([]),
    "no captions": whole_of(None),
    "an entry is a text": whole_of({"set/a.png": "uno"}),
    "an entry is empty": whole_of({"set/a.png": {}}),
    "nested": b"[" * 200_000,
    "nested objects": b'{"a":' * 200_000,
    "a long number": b"1" * 10_000,
    "caption is a number": file_of(caption=1),
    "caption is empty": file_of(caption=" "),
    "caption has NUL": file_of(caption="a\0"),
    "caption has half a pair": file_of(caption="\ud800"),
    "caption is too long": file_of(caption="a" * 70_000),
    "hash is a number": file_of(replaces=1),
    "size is true": file_of(image_bytes=True),
    "size is a fraction": file_of(image_bytes=1.5),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_cannot_be_used_is_named_and_left(tmp_path: Path, case: str) -> None:
    path = tmp_path / "pets.zip"
    path.write_bytes(zip_of(FILES))
    dataset = look(path)
    beside = corrections_path(path)
    beside.write_bytes(HOSTILE[case])
    with pytest.raises(DatasetUnreadable, match=r"pets\.zip\.captions\.json.*Repair it, or move it"):
        open_dataset(path, default_caption="x")
    with pytest.raises(DatasetUnreadable):
        correct(path, dataset, dataset.items[0], "uno")
    assert beside.read_bytes() == HOSTILE[case]


@pytest.mark.parametrize(
    "name", ["../a.png", "/etc/a.png", "a\0.png", "\ud800", "x" * 2000, "", "set//a.png", "a\u202e\n"]
)
def test_names_in_it_are_those_of_a_dataset(tmp_path: Path, name: str) -> None:
    path = tmp_path / "pets.zip"
    path.write_bytes(zip_of(FILES))
    entry = {"caption": "uno", "replaces": caption_hash("one"), "image_bytes": 1}
    corrections_path(path).write_bytes(whole_of({name: entry, "set/a.png": entry}))
    with pytest.raises(DatasetUnreadable, match="no name in a dataset") as caught:
        look(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_a_giant_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "pets.zip"
    path.write_bytes(zip_of(FILES))
    with corrections_path(path).open("wb") as file:
        file.truncate(10 * MAX_FILE_BYTES)
    with pytest.raises(DatasetUnreadable, match="64 MiB"):
        look(path)


@pytest.mark.skipif(os.name == "nt", reason="no links without a privilege, and no pipes there")
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    path, beside = tmp_path / "pets.zip", tmp_path / "pets.zip.captions.json"
    path.write_bytes(zip_of(FILES))
    (tmp_path / "secret").write_bytes(file_of())
    {"link": lambda: beside.symlink_to("secret"), "pipe": lambda: os.mkfifo(beside), "folder": beside.mkdir}[kind]()
    with pytest.raises(DatasetUnreadable, match=r"captions\.json"):
        look(path)


def test_it_never_grows_beyond_what_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pets.zip"
    path.write_bytes(zip_of(FILES))
    corrected(path, 0, "uno")
    before = corrections_path(path).read_bytes()
    monkeypatch.setattr("ideogram4_lora_trainer.trainer_core.dataset.corrections.MAX_FILE_BYTES", len(before) + 10)
    with pytest.raises(SaveFailed, match="larger"):
        corrected(path, 1, "due" * 20)
    assert corrections_path(path).read_bytes() == before


@pytest.mark.parametrize("text", ["", " \r\n", "a\0", "\udfff", "a" * 65_537])
def test_what_is_no_caption_is_not_saved(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pets.zip"
    path.write_bytes(zip_of(FILES))
    with pytest.raises(SettingsError, match=r"set/a\.png"):
        corrected(path, 0, text)
    assert not corrections_path(path).exists()


def test_a_crash_while_saving_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pets.zip"
    path.write_bytes(zip_of(FILES))
    corrected(path, 0, "uno")

    def crash(*_: object) -> None:
        raise OSError(5, "the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr("ideogram4_lora_trainer.trainer_core.dataset.corrections.os.replace", crash)
        with pytest.raises(SaveFailed, match="the disk is gone"):
            corrected(path, 1, "due")
    assert [item.caption for item in look(path).items] == ["uno", ""]
    corrected(path, 1, "due")
    assert [item.caption for item in look(path).items] == ["uno", "due"]
