"""Which datasets a folder offers, and which names lead to one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dataset_forge import png
from ideogram4_lora_trainer.trainer_core.dataset.library import data_stamp, dataset_path, list_datasets
from ideogram4_lora_trainer.trainer_core.errors import DatasetUnreadable
from ideogram4_lora_trainer.trainer_core.paths import PathOutsideRoot


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png())


def test_zips_and_folders_with_images(tmp_path: Path) -> None:
    write(tmp_path, "loose.png", "b.zip", "A.ZIP", "set/a.webp", "words/a.txt", "x/y/z/a.png", "x/y/z/deep/a.png")
    write(tmp_path, ".ideogram4-lora-upload-1/content/a.zip", "__MACOSX/a.png", "b.zip.captions.json", "set/.a.zip")
    assert list_datasets(tmp_path) == ["A.ZIP", "b.zip", "set", "x/y/z"]
    assert list_datasets(tmp_path / "none") == []


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_links_stay_inside(tmp_path: Path) -> None:
    root = tmp_path / "input"
    write(root, "a.zip")
    write(tmp_path, "outside.zip", "pictures/a.png")
    (root / "in.zip").symlink_to("a.zip")
    (root / "out.zip").symlink_to(tmp_path / "outside.zip")
    (root / "out").symlink_to(tmp_path / "pictures")
    (root / "circle.zip").symlink_to("circle.zip")
    assert list_datasets(root) == ["a.zip", "in.zip"]
    assert dataset_path(root, "in.zip") == (root / "a.zip").resolve()
    for name in ("out.zip", "out", "../outside.zip", "/etc", "C:\\x", "a\0"):
        with pytest.raises(PathOutsideRoot):
            dataset_path(root, name)
    for name in ("", ".", "none.zip"):
        with pytest.raises(DatasetUnreadable):
            dataset_path(root, name)


def test_the_stamp_of_a_folder_tells_of_its_files(tmp_path: Path) -> None:
    write(tmp_path, "set/a.png")
    before = data_stamp(tmp_path / "set")
    assert data_stamp(tmp_path / "set") == before
    write(tmp_path, "set/sub/b.txt")
    added = data_stamp(tmp_path / "set")
    (tmp_path / "set" / "a.png").write_bytes(png(40, 40))
    assert len({str(stamp) for stamp in (before, added, data_stamp(tmp_path / "set"))}) == 3
