"""The panel on the dataset node, in ComfyUI's own frontend. Skipped as test_workflows_in_browser.py is."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import browser
import datasets
import pytest

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())

COUNT = 24
HOSTILE = (
    '{"a":{"b":"one|two {x|y} // no comment", "n": 1.0, "n": 1e400},\n\t"c": ["https://example.org", "\\\\{kept\\\\}", '
    '"/* kept */", "</textarea><b>", "\\u00e9 \U0001f388 \u202e"],   "d":{}}'
)
JSON_CAPTION = json.dumps(
    {
        "high_level_description": "a disc",
        "compositional_deconstruction": {
            "background": "white",
            "elements": [
                {"type": "obj", "bbox": [0, 0, 500, 500], "desc": "a disc"},
                {"type": "text", "bbox": [600, 0, 900, 900], "text": "BAR", "desc": "a bar"},
            ],
        },
        "mood": "a key that no such caption has",
    }
)


def dataset_files() -> dict[str, bytes]:
    """A JSON caption at 0, sizes that differ, no caption at 2, the same picture at 3 and 4, a small one at 5."""
    files: dict[str, bytes] = {}
    for index in range(COUNT):
        size = (64, 64) if index == 5 else ((160, 96), (96, 160), (128, 128))[index % 3]
        same = 3 if index == 4 else index
        files[f"set/{index:02}.png"] = datasets.picture(same, size if index != 4 else (160, 96))
        if index != 2:
            files[f"set/{index:02}.txt"] = (JSON_CAPTION if index == 0 else f"disc number {index}").encode()
    return files


def things_to_drop(folder: Path, mode: str) -> dict[str, Any]:
    zipped = folder / f"dropped_{mode}.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        for name, data in dataset_files().items():
            archive.writestr(name, data)
    (folder / "broken.zip").write_bytes(zipped.read_bytes()[:-200])
    (folder / "notes.docx").write_bytes(b"PK")
    loose = folder / "loose"
    holiday = folder / "holiday" / "inner"
    for place in (loose, holiday):
        place.mkdir(parents=True)
        for index in range(3):
            (place / f"{index}.png").write_bytes(datasets.picture(index, (96, 96)))
            (place / f"{index}.txt").write_text(f"{place.name} {index}", encoding="utf-8")
    (loose / "2.txt").write_bytes(b"")
    (folder / "holiday" / ".DS_Store").write_bytes(b"\0")
    (holiday / "Notes.md").write_text("left out", encoding="utf-8")
    return {
        "zip": str(zipped),
        "loose": [str(path) for path in sorted(loose.iterdir())],
        "folder": str(folder / "holiday"),
        "broken": str(folder / "broken.zip"),
        "odd": str(folder / "notes.docx"),
    }


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "nodes 2.0"])
def seen(
    request: pytest.FixtureRequest, comfy_server: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    mode = "vue" if request.param else "canvas"
    payload = {"url": comfy_server.client.url, "vueNodes": request.param, "hostile": HOSTILE, "size": [96, 64]}
    told = browser.run_script("dataset_panel.mjs", payload | things_to_drop(tmp_path_factory.mktemp(mode), mode))
    return {"zip": f"dropped_{mode}.zip"} | told


def test_a_dropped_zip_is_chosen_and_shown(seen: Any, comfy_server: SimpleNamespace) -> None:
    shown = seen["dropped"]
    assert shown["value"] == seen["zip"]
    assert (comfy_server.input / seen["zip"]).is_file()
    assert shown["listed"]
    assert shown["summary"].startswith(f"{COUNT} images")
    assert len(shown["tiles"]) == COUNT
    assert f"{COUNT} images" in shown["report"]


def test_what_is_wrong_is_marked_with_a_sign_and_a_word(seen: Any) -> None:
    tiles = seen["sized"]["tiles"]
    assert "check JSON" in tiles[0]["marks"]
    assert "no caption" in tiles[2]["marks"]
    assert "look-alike" in tiles[3]["marks"] + tiles[4]["marks"]
    assert "too small" in tiles[5]["marks"]
    assert tiles[7]["marks"] == []
    assert all(tile["signs"] == len(tile["marks"]) for tile in tiles)


def test_the_crop_follows_the_size_that_is_chosen_downstream(seen: Any) -> None:
    auto, sized = seen["dropped"], seen["sized"]
    assert all(tile["crop"] for tile in auto["tiles"])
    assert [tile["crop"] for tile in auto["tiles"]] != [tile["crop"] for tile in sized["tiles"]]
    assert [bool(tile["crop"]) for tile in sized["tiles"]] == [index != 5 for index in range(COUNT)]


def test_loose_files_and_folders_become_dataset_folders(seen: Any, comfy_server: SimpleNamespace) -> None:
    for name, step in (("images", "loose"), ("holiday", "folder")):
        assert seen[step]["value"] == name
        assert len(seen[step]["tiles"]) == 3
        assert sorted(path.name for path in (comfy_server.input / name).glob("*.png")) == ["0.png", "1.png", "2.png"]
    assert seen["loose"]["tiles"][0]["words"] == "loose 0"
    assert seen["loose"]["tiles"][2]["marks"] == ["no caption"]
    assert "Notes.md" in seen["folder"]["alert"]
    assert "DS_Store" not in seen["folder"]["alert"]


def test_what_cannot_be_used_is_told_in_words_and_leaves_nothing(seen: Any, comfy_server: SimpleNamespace) -> None:
    assert "broken.zip" in seen["broken"]["alert"]
    assert seen["broken"]["value"] == seen["folder"]["value"]
    assert ".zip" in seen["odd"]["alert"]
    assert seen["leftBehind"] == 0
    assert not list(comfy_server.input.glob("broken*"))
    assert not list(comfy_server.input.glob(".ideogram4-lora-upload-*"))


def test_the_same_zip_again_is_the_same_dataset(seen: Any) -> None:
    assert seen["again"]["value"] == seen["zip"]


def test_scrolling_moves_the_sheet_and_not_the_canvas(seen: Any) -> None:
    assert seen["scroll"] == {"moved": True, "zoomed": False}


def test_an_image_opens_large_with_crop_boxes_and_findings(seen: Any) -> None:
    opened = seen["opened"]
    assert opened["title"].endswith("00.png")
    assert opened["caption"] == JSON_CAPTION
    assert opened["crop"]
    assert opened["boxes"] == ["a disc", "text: BAR"]
    assert any("mood" in finding for finding in opened["findings"])
    assert opened["focused"]
    assert seen["second"]["title"].endswith("01.png")
    assert seen["second"]["caption"] == "disc number 1"


def test_unsaved_text_is_asked_about(seen: Any) -> None:
    assert seen["asked"]["asks"]
    assert seen["asked"]["caption"] == HOSTILE


def test_a_correction_is_on_disk_byte_for_byte_and_the_zip_as_it_was(seen: Any, comfy_server: SimpleNamespace) -> None:
    saved = json.loads((comfy_server.input / f"{seen['zip']}.captions.json").read_bytes())
    assert {name: entry["caption"] for name, entry in saved["captions"].items()} == {"set/00.png": HOSTILE}
    with zipfile.ZipFile(comfy_server.input / seen["zip"]) as archive:
        assert archive.read("set/00.txt").decode() == JSON_CAPTION
    assert seen["saved"]["caption"] == HOSTILE
    assert not seen["saved"]["asks"]
    assert seen["queued"] == 0, "Ctrl+Enter is ComfyUI's own key for running the graph"


def test_the_tile_shows_the_correction_at_once_and_after_a_reload(seen: Any) -> None:
    assert "corrected" in seen["corrected"]["tiles"][0]["words"]
    assert seen["reloaded"]["value"] == seen["zip"]
    assert seen["reloaded"]["tiles"] == seen["corrected"]["tiles"]
    assert seen["reloaded"]["summary"] == seen["corrected"]["summary"]
    assert seen["reopened"]["caption"] == HOSTILE


def test_a_change_from_elsewhere_keeps_what_is_typed(seen: Any) -> None:
    assert seen["conflict"]["caption"] == "written here"
    assert seen["afterConflict"]["tiles"][1]["words"].endswith("written elsewhere")


def test_a_correction_can_be_taken_back(seen: Any) -> None:
    assert seen["restored"]["caption"] == "disc number 1"


def test_it_adds_nothing_to_what_is_sent_or_saved(seen: Any) -> None:
    assert dict(seen["graph"])["Ideogram4LoadDataset"] == [seen["zip"], "", False, ""]
    (sent,) = (n["inputs"] for n in seen["prompt"].values() if n["class_type"] == "Ideogram4LoadDataset")
    assert set(sent) == {"dataset", "default_caption", "force_default_caption", "url"}


def test_no_error_is_thrown_in_the_page(seen: Any) -> None:
    assert seen["errors"] == []
