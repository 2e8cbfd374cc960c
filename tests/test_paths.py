"""Joining a root with a user's text, and names to be created: what is taken and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from ideogram4_lora_trainer.trainer_core.paths import (
    MAX_PART_BYTES,
    MAX_PARTS,
    NameRejected,
    PathOutsideRoot,
    resolve_inside,
    storable_parts,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    root = tmp_path / "input"
    (root / "set").mkdir(parents=True)
    (root / "file.zip").touch()
    (root / "inner link").symlink_to(root / "set")
    (root / "outer link").symlink_to(tmp_path / "outside")
    (root / "circle").symlink_to(root / "circle")
    return root


@pytest.mark.parametrize(
    "name",
    ["set", "set/a.zip", "./set", "set/../set", "inner link/a", "new.zip", "ünï 写.zip", "", "file.zip/below", "circle",
     "12:30.zip", "a%2f..%2fb"],
)  # fmt: skip
def test_inside(root: Path, name: str) -> None:
    assert resolve_inside(root, name).is_relative_to(root.resolve())


@pytest.mark.parametrize(
    "name",
    ["..", "../outside", "set/../../outside", "/etc/passwd", "outer link", "outer link/a", "..\\outside", "a\0b",
     "\ud800", "x" * 5000, "../input2", "~/../../x/../../../etc", "C:a.zip", "C:\\a.zip", "\\a", "inner link/../../x"],
)  # fmt: skip
def test_outside(root: Path, name: str) -> None:
    with pytest.raises(PathOutsideRoot, match="outside of input"):
        resolve_inside(root, name)


@pytest.mark.parametrize("name", ["//server/share/a", "\\\\server\\share\\a", "\\\\?\\C:\\a", "\\\\.\\pipe\\a", "C:/a"])
def test_the_disk_is_not_asked_about_shares_and_drives(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(Path, "lstat", asked.append)
    with pytest.raises(PathOutsideRoot):
        resolve_inside(root, name)
    assert asked == []


def test_an_absolute_path_is_refused_even_where_it_leads_inside(root: Path) -> None:
    with pytest.raises(PathOutsideRoot):
        resolve_inside(root, str(root / "set"))


def test_messages_are_short_and_show_no_control_characters(root: Path) -> None:
    for name in ("../" + "x" * 100_000, "../\x1b[31m\u202e\n\0"):
        with pytest.raises(PathOutsideRoot) as caught:
            resolve_inside(root, name)
        assert len(str(caught.value)) < 500
        assert str(caught.value).isprintable()


def test_backslashes_are_shown_as_they_were_typed(root: Path) -> None:
    with pytest.raises(PathOutsideRoot, match=r"^'C:\\photos\\a\.zip' is outside of input"):
        resolve_inside(root, "C:\\photos\\a.zip")


# ---- names to be created -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("loras/name", ("loras", "name")),
        ("./loras//name/", ("loras", "name")),
        ("loras\\name", ("loras", "name")),
        ("ünï 写 v1.2", ("ünï 写 v1.2",)),
        ("console/common", ("console", "common")),
        ("com10", ("com10",)),
        ("100% (new) [x] & y's", ("100% (new) [x] & y's",)),
        ("", ()),
        ("/".join("a" * MAX_PARTS), tuple("a" * MAX_PARTS)),
        ("x" * MAX_PART_BYTES, ("x" * MAX_PART_BYTES,)),
        ("ü" * (MAX_PART_BYTES // 2), ("ü" * (MAX_PART_BYTES // 2),)),
    ],
)
def test_storable(text: str, parts: tuple[str, ...]) -> None:
    assert storable_parts(text) == parts


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ab:stream", "contains ':'"),
        ("a?b", "contains '?'"),
        ("a\nb", "contains '\\n'"),
        ("a\x7fb", "contains '\\x7f'"),
        ("a\ud800b", "contains '\\ud800'"),
        ("a\u202egpj.exe", "invisible characters"),
        ("a\u2028b", "invisible characters"),
        ("loras/..", "starts with a dot"),
        (".hidden/a", "starts with a dot"),
        (" a", "starts with a dot or a space"),
        ("a./b", "ends with a dot"),
        ("a /b", "ends with a dot or a space"),
        ("CON", "device"),
        ("loras/nul.txt/a", "device"),
        ("Com1", "device"),
        ("lpt² .a", "device"),
        ("x" * (MAX_PART_BYTES + 1), "bytes long"),
        ("ü" * (MAX_PART_BYTES // 2 + 1), "bytes long"),
        ("/".join("a" * (MAX_PARTS + 1)), "inside each other"),
        ("/a", "absolute"),
        ("C:a", "absolute"),
        ("\\\\server\\share\\a", "absolute"),
    ],
)
def test_not_storable(text: str, says: str) -> None:
    with pytest.raises(NameRejected) as caught:
        storable_parts(text)
    assert says in str(caught.value)
    assert str(caught.value).endswith(".")
    assert len(str(caught.value)) < 500
