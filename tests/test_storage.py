"""New folders appear whole or not at all, and never over others; deleted ones go out of sight at once."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from ideogram4_lora_trainer.trainer_core import storage
from ideogram4_lora_trainer.trainer_core.errors import SaveFailed
from ideogram4_lora_trainer.trainer_core.storage import place_new_folder, remove_folder, remove_leftovers

FILES = {"a.bin": [b"12", memoryview(b"34")], "deep/er/b.txt": [b"x"]}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_with_all_its_files(tmp_path: Path) -> None:
    path = place_new_folder(tmp_path / "new" / "parent", "run", FILES)
    assert path == tmp_path / "new" / "parent" / "run"
    assert contents(tmp_path) == {"new/parent/run/a.bin": b"1234", "new/parent/run/deep/er/b.txt": b"x"}


def test_names_that_are_taken_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    (tmp_path / "run_2").mkdir()
    (tmp_path / "run_3").symlink_to(tmp_path / "nowhere")
    assert place_new_folder(tmp_path, "run", FILES).name == "run_4"
    assert (tmp_path / "run").read_text() == "a file"
    assert not list((tmp_path / "run_2").iterdir())


def test_many_at_once_get_a_name_each(tmp_path: Path) -> None:
    threads = [threading.Thread(target=place_new_folder, args=(tmp_path, "run", FILES)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.iterdir())) == 12
    assert all(contents(path) == {"a.bin": b"1234", "deep/er/b.txt": b"x"} for path in tmp_path.iterdir())


def test_everything_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        order.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real_fsync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        order.append(f"rename to {target.name}")
        return real_rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    place_new_folder(tmp_path, "run", FILES)
    assert order[:2] == ["a.bin", "b.txt"]
    assert sorted(order[2:5]) == ["deep", "er", "folder.partial"]
    assert order[5:] == ["rename to run", tmp_path.name]


@pytest.mark.parametrize("name", ["", "..", "a/b", "nul\0", "a\\b", "x:y"])
def test_names_that_are_none_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SaveFailed, match="cannot be a file name"):
        place_new_folder(tmp_path, name, FILES)
    assert not list(tmp_path.iterdir())


def test_a_parent_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveFailed, match=r"run was not saved in .*file"):
        place_new_folder(tmp_path / "file", "run", FILES)


def test_a_removed_folder_is_gone(tmp_path: Path) -> None:
    path = place_new_folder(tmp_path, "run", FILES)
    remove_folder(path)
    remove_folder(path)
    assert not list(tmp_path.iterdir())


def test_a_removal_that_is_cut_short_leaves_no_half_folder_in_sight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place_new_folder(tmp_path, "run", FILES)
    monkeypatch.setattr(storage.shutil, "rmtree", lambda *_, **__: None)
    remove_folder(path)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".") and len(contents(left)) == 2


def test_leftovers_go_when_they_are_old_enough(tmp_path: Path) -> None:
    old, young, other = (tmp_path / name for name in (".ideogram4-lora-partial-1", ".ideogram4-lora-partial-2", "x"))
    for folder in (old, young, other):
        folder.mkdir()
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, "x"]
    remove_leftovers(tmp_path, min_age_s=0)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
