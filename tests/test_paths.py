"""Joining a root with a user's text: what stays inside and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from ideogram4_lora_trainer.trainer_core.paths import PathOutsideRoot, resolve_inside


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    root = tmp_path / "input"
    (root / "set").mkdir(parents=True)
    (root / "inner link").symlink_to(root / "set")
    (root / "outer link").symlink_to(tmp_path / "outside")
    return root


@pytest.mark.parametrize(
    "name", ["set", "set/a.zip", "./set", "set/../set", "inner link/a", "new.zip", "ünï 写.zip", ""]
)
def test_inside(root: Path, name: str) -> None:
    assert resolve_inside(root, name).is_relative_to(root.resolve())


@pytest.mark.parametrize(
    "name",
    ["..", "../outside", "set/../../outside", "/etc/passwd", "outer link", "outer link/a", "..\\outside", "a\0b",
     "\ud800", "x" * 5000, "../input2", "~/../../x/../../../etc"],
)  # fmt: skip
def test_outside(root: Path, name: str) -> None:
    with pytest.raises(PathOutsideRoot, match="outside of input"):
        resolve_inside(root, name)
