"""Which files count, which caption goes with which image, and what is said about the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dataset_forge import encode, noise, png, zip_of
from ideogram4_lora_trainer.trainer_core.dataset import Dataset, open_dataset
from ideogram4_lora_trainer.trainer_core.errors import (
    DatasetUnreadable,
    ImageUnreadable,
    MissingCaptions,
    NoImagesFound,
    SettingsError,
)

PICTURE = png()


@pytest.fixture(params=["zip", "zip in memory", "folder"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    """Opens the given files as a zip, as its bytes, or as a folder: all three must behave alike."""

    def open_files(files: dict[str, bytes | str], **captions: object) -> Dataset:
        if request.param == "folder":
            for name, data in files.items():
                path = tmp_path / "set" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data.encode() if isinstance(data, str) else data)
            return open_dataset(tmp_path / "set", **captions)
        if request.param == "zip in memory":
            return open_dataset(zip_of(files), **captions)
        (tmp_path / "set.zip").write_bytes(zip_of(files))
        return open_dataset(tmp_path / "set.zip", **captions)

    return open_files


def captions(dataset: Dataset) -> dict[str, tuple[str, str]]:
    return {item.name: (item.caption, item.caption_source) for item in dataset.items}


# ---- which files ---------------------------------------------------------------------------------------------


def test_image_endings_of_any_case_in_any_folder(opened) -> None:
    files = dict.fromkeys(("a.png", "b.PNG", "c.Jpg", "d/e.jpeg", "d/f/g.WEBP"), PICTURE)
    dataset = opened(files, default_caption="x")
    assert [item.name for item in dataset.items] == ["a.png", "b.PNG", "c.Jpg", "d/e.jpeg", "d/f/g.WEBP"]
    assert [dataset.read(item) for item in dataset.items] == [PICTURE] * 5


def test_every_other_file_is_skipped_by_name_and_reason(opened) -> None:
    files = {
        "a.png": PICTURE,
        "a_mask.png": PICTURE,
        "A_MASK.webp": b"never opened",
        "mask_a.png": PICTURE,
        "notes.md": "x",
        "moving.gif": b"GIF89a",
        "more.zip": b"x",
        "lonely.txt": "x",
        "a_mask.txt": "x",
        ".hidden.png": PICTURE,
        "._a.png": b"x",
        "__MACOSX/a.png": b"x",
        ".git/b.png": b"x",
        "no_ending": b"x",
    }
    dataset = opened(files, default_caption="x")
    assert [item.name for item in dataset.items] == ["a.png", "mask_a.png"]
    reasons = {skipped.name: skipped.reason.split()[0] for skipped in dataset.skipped}
    assert reasons == {
        "a_mask.png": "mask",
        "A_MASK.webp": "mask",
        "notes.md": "neither",
        "moving.gif": "neither",
        "more.zip": "archive",
        "lonely.txt": "caption",
        "a_mask.txt": "caption",
        ".hidden.png": "hidden",
        "._a.png": "hidden",
        "__MACOSX/a.png": "hidden",
        ".git/b.png": "hidden",
        "no_ending": "neither",
    }


def test_no_image_is_an_error_that_tells_what_was_there(opened) -> None:
    with pytest.raises(NoImagesFound, match=r"b\.gif \(neither"):
        opened({"b.gif": b"GIF89a", "a_mask.png": PICTURE})


def test_images_come_in_natural_order(opened) -> None:
    names = ["B/1.png", "a.png", "a/1.png", "img1.png", "img2.png", "img10.png", "img010b.png"]
    dataset = opened(dict.fromkeys(reversed(names), PICTURE), default_caption="x")
    order = [item.name for item in dataset.items]
    assert [order.index(f"img{number}.png") for number in (1, 2, 10)] == sorted(
        order.index(f"img{number}.png") for number in (1, 2, 10)
    )
    again = opened(dict.fromkeys(names, PICTURE), default_caption="x")
    assert [item.name for item in again.items] == order


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_content_decides_and_not_the_name(opened, name: str) -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        assert opened({name: encode(noise(40, 20), kind)}, default_caption="x").items[0].width == 40
    with pytest.raises(ImageUnreadable, match=r"not a PNG, JPEG or WebP"):
        opened({name: encode(noise(), "GIF")}, default_caption="x")


def test_all_unreadable_images_are_told_at_once(opened) -> None:
    files = {f"{index}.png": b"no image" for index in range(25)}
    with pytest.raises(ImageUnreadable) as error:
        opened(files | {"good.png": PICTURE}, default_caption="x")
    message = str(error.value)
    assert all(f"{index}.png" in message for index in range(20))
    assert "20.png" not in message and "5 more" in message and "good.png" not in message


# ---- which caption -------------------------------------------------------------------------------------------


def test_captions_pair_by_exact_base_name_inside_the_folder(opened) -> None:
    files = {
        "x/a.png": PICTURE,
        "x/a.txt": "of x",
        "y/a.png": PICTURE,
        "y/a.txt": "of y",
        "y/b.c.png": PICTURE,
        "y/b.c.txt": "two dots",
        "y/b.txt": "not of b.c",
        "z/A.png": PICTURE,
        "z/a.txt": "another case",
    }
    dataset = opened(files, default_caption="default")
    assert captions(dataset) == {
        "x/a.png": ("of x", "file"),
        "y/a.png": ("of y", "file"),
        "y/b.c.png": ("two dots", "file"),
        "z/A.png": ("default", "default"),
    }
    assert {skipped.name for skipped in dataset.skipped} == {"y/b.txt", "z/a.txt"}


def test_a_warning_tells_what_flattening_would_lose(opened) -> None:
    files = {"x/a.png": PICTURE, "x/a.txt": "1", "y/a.png": PICTURE, "y/a.txt": "2", "y/b.png": PICTURE, "y/b.txt": "3"}
    (warning,) = opened(files).warnings
    assert "y/a.png (beside x/a.png)" in warning and "y/a.txt (beside x/a.txt)" in warning and "b.png" not in warning


def test_no_warning_without_shared_names() -> None:
    assert open_dataset(zip_of({"x/a.png": PICTURE, "y/b.png": PICTURE}), default_caption="x").warnings == ()


@pytest.mark.parametrize(
    ("written", "caption"),
    [
        (b"plain", "plain"),
        (b"\xef\xbb\xbfwith a byte order mark", "with a byte order mark"),
        (b"dos\r\n", "dos"),
        (b"many\n\r\n\n", "many"),
        (b"two\r\nlines\r\n", "two\r\nlines"),
        (b"  spaces \t\n", "  spaces \t"),
        ("\u00fcber \u732b \U0001f408".encode(), "\u00fcber \u732b \U0001f408"),
        (b'{"a": 1 }\n', '{"a": 1 }'),
    ],
)
def test_text_is_used_as_written(opened, written: bytes, caption: str) -> None:
    assert captions(opened({"a.png": PICTURE, "a.txt": written})) == {"a.png": (caption, "file")}


@pytest.mark.parametrize("written", [b"latin \xfc", "utf 16".encode("utf-16"), "u".encode("utf-16-le")])
def test_text_that_is_not_utf8_is_refused_by_name(opened, written: bytes) -> None:
    with pytest.raises(DatasetUnreadable, match=r"a\.txt .*UTF-8"):
        opened({"a.png": PICTURE, "a.txt": written})


def test_default_caption_fills_gaps_and_force_replaces_all(opened) -> None:
    files = {"a.png": PICTURE, "a.txt": "own", "b.png": PICTURE, "c.png": PICTURE, "c.txt": " \r\n"}
    assert captions(opened(files, default_caption="d\n")) == {
        "a.png": ("own", "file"),
        "b.png": ("d", "default"),
        "c.png": ("d", "default"),
    }
    forced = opened(files, default_caption="d", force_default_caption=True)
    assert set(captions(forced).values()) == {("d", "forced")}
    assert forced.default_caption == "d"


def test_forced_captions_do_not_even_read_the_files(opened) -> None:
    files = {"a.png": PICTURE, "a.txt": b"\xff\xfe\xfd"}
    assert captions(opened(files, default_caption="d", force_default_caption=True)) == {"a.png": ("d", "forced")}


def test_forcing_nothing_is_refused(opened) -> None:
    with pytest.raises(SettingsError, match="default_caption is empty"):
        opened({"a.png": PICTURE, "a.txt": "own"}, force_default_caption=True, default_caption=" \n")


@pytest.mark.parametrize("count", [1, 20, 21, 60])
def test_missing_captions_are_named(opened, count: int) -> None:
    files = {f"{index:03}.png": PICTURE for index in range(count)} | {"x.png": PICTURE, "x.txt": "own"}
    with pytest.raises(MissingCaptions) as error:
        opened(files, default_caption="  ")
    message = str(error.value)
    assert f"{count} of {count + 1} images" in message
    named = [index for index in range(count) if f"{index:03}.png" in message]
    assert named == list(range(min(count, 20)))
    assert (f"{count - 20} more" in message) == (count > 20)
    assert "x.png" not in message and "default_caption" in message


def test_an_empty_caption_file_counts_as_missing_and_is_told_so(opened) -> None:
    with pytest.raises(MissingCaptions, match=r"a\.png \(its \.txt is empty\)"):
        opened({"a.png": PICTURE, "a.txt": "\n"})


# ---- folders -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(PICTURE)
    (tmp_path / "secret.png").write_bytes(png(seed=9))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "b.png").write_bytes(png(seed=9))
    return tmp_path / "set"


def test_links_that_leave_the_folder_are_not_followed(folder: Path) -> None:
    (folder / "out.png").symlink_to("../secret.png")
    (folder / "absolute.png").symlink_to(folder.parent / "secret.png")
    (folder / "outer").symlink_to("../secrets", target_is_directory=True)
    (folder / "broken.png").symlink_to("gone.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "circle").symlink_to(".", target_is_directory=True)
    dataset = open_dataset(folder, default_caption="x")
    assert [item.name for item in dataset.items] == ["a.png"]
    reasons = {skipped.name: skipped.reason for skipped in dataset.skipped}
    assert set(reasons) == {"out.png", "absolute.png", "outer", "broken.png", "loop.png", "circle"}
    assert all("symbolic link" in reason for reason in reasons.values())


def test_links_inside_the_folder_are_followed(folder: Path) -> None:
    (folder / "same.png").symlink_to("a.png")
    dataset = open_dataset(folder, default_caption="x")
    assert [dataset.read(item) for item in dataset.items] == [PICTURE, PICTURE]


def test_the_folder_itself_may_be_a_link(folder: Path) -> None:
    (folder.parent / "link").symlink_to(folder, target_is_directory=True)
    dataset = open_dataset(folder.parent / "link", default_caption="x")
    assert dataset.name == "link" and dataset.read(dataset.items[0]) == PICTURE


def test_a_file_swapped_for_a_link_after_opening_is_refused(folder: Path) -> None:
    dataset = open_dataset(folder, default_caption="x")
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to("../secret.png")
    with pytest.raises(DatasetUnreadable, match=r"a\.png has changed"):
        dataset.read(dataset.items[0])


@pytest.mark.parametrize("contents", [PICTURE + b"\0", PICTURE[:-1], b""])
def test_a_file_that_changed_its_size_is_refused(folder: Path, contents: bytes) -> None:
    dataset = open_dataset(folder, default_caption="x")
    (folder / "a.png").write_bytes(contents)
    with pytest.raises(DatasetUnreadable, match=r"a\.png has changed"):
        dataset.read(dataset.items[0])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_are_not_opened(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    dataset = open_dataset(folder, default_caption="x")
    assert [(skipped.name, skipped.reason) for skipped in dataset.skipped] == [("pipe.png", "not a regular file")]


def test_names_that_are_no_text_are_refused(folder: Path) -> None:
    try:
        (folder / os.fsdecode(b"\xff.png")).write_bytes(PICTURE)
    except OSError:
        pytest.skip("this file system holds Unicode names only")
    with pytest.raises(DatasetUnreadable, match="not valid Unicode"):
        open_dataset(folder, default_caption="x")


def test_names_that_differ_in_case_alone_are_refused(folder: Path) -> None:
    (folder / "A.png").write_bytes(PICTURE)
    if len(list(folder.iterdir())) == 1:
        pytest.skip("this file system ignores case")
    with pytest.raises(DatasetUnreadable, match="one file"):
        open_dataset(folder, default_caption="x")


def test_number_and_depth_of_files_from_both_sides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ideogram4_lora_trainer.trainer_core.dataset import folder as folder_module

    deep = folder / "1" / "2"
    deep.mkdir(parents=True)
    (deep / "b.png").write_bytes(PICTURE)
    for limit, value in (("MAX_FILES", 2), ("MAX_DEPTH", 2)):
        with monkeypatch.context() as patched:
            patched.setattr(folder_module, limit, value)
            assert len(open_dataset(folder, default_caption="x").items) == 2
            patched.setattr(folder_module, limit, value - 1)
            with pytest.raises(DatasetUnreadable, match="more than 1"):
                open_dataset(folder, default_caption="x")


@pytest.mark.parametrize("name", ["gone.zip", "gone"])
def test_what_is_not_there_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetUnreadable, match=name):
        open_dataset(tmp_path / name)


# ---- ten thousand --------------------------------------------------------------------------------------------


def test_ten_thousand_images_open_as_ten_do(tmp_path: Path) -> None:
    pictures = [png(32 + index, 24 + index, seed=index) for index in range(10)]
    files: dict[str, bytes | str] = {}
    for index in range(10_000):
        files[f"part{index % 3}/{index}.png"] = pictures[index % 10]
        files[f"part{index % 3}/{index}.txt"] = f"number {index}"
    (tmp_path / "many.zip").write_bytes(zip_of(files))
    dataset = open_dataset(tmp_path / "many.zip")
    assert len(dataset.items) == 10_000
    for item in dataset.items[::97]:
        index = int(item.name.split("/")[1].removesuffix(".png"))
        assert (item.caption, item.width, item.height) == (f"number {index}", 32 + index % 10, 24 + index % 10)
        assert dataset.read(item) == pictures[index % 10]
    numbers = [int(item.name.split("/")[1].removesuffix(".png")) for item in dataset.items]
    assert numbers == [*range(0, 10_000, 3), *range(1, 10_000, 3), *range(2, 10_000, 3)]
