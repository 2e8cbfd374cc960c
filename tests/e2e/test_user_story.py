"""From a dropped zip to a LoRA in the loader's list, in ComfyUI's own frontend, in both of its ways to draw nodes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import browser
import pytest
import showcase
import tiny_host as host  # loaded by tests/conftest.py

import example_workflows as examples

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())

CAPTION = '{"compositional_deconstruction":{"background":"{a|b} // kept","elements":[]}}\n"quotes" 鸟 🐦'
STEPS, EVERY = 4000, 40


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "nodes 2.0"])
def story(
    request: pytest.FixtureRequest, comfy_server: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    pictures = host_pictures()
    zip_path = tmp_path_factory.mktemp("story") / ("shapes vue.zip" if request.param else "shapes.zip")
    zip_path.write_bytes(showcase.showcase_zip(pictures.draw_picture, troubles=False))
    payload = {
        "url": comfy_server.client.url,
        "workflow": showcase.on_tiny_models(
            examples.load_ui("train_and_watch"), steps=STEPS, every=EVERY, prompts=("a red circle", "a yellow square")
        ),
        "zip": str(zip_path),
        "vueNodes": request.param,
        "caption": CAPTION,
        "stopAt": 2 * EVERY + 5,
        "pictures": None,
    }
    comfy_server.client.post("/history", {"clear": True})
    return SimpleNamespace(**browser.run_script("user_story.mjs", payload), zip=zip_path.name)


def host_pictures() -> Any:
    import importlib.util

    spec = importlib.util.spec_from_file_location("tiny_pictures", Path(host.__file__).with_name("pictures.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sheet_shows_the_dataset_and_takes_a_correction(story: Any, comfy_server: SimpleNamespace) -> None:
    assert "9 images at 64" in story.summary
    assert story.captionBefore.startswith('{"high_level_description":')
    (path,) = comfy_server.input.glob(f"{story.zip}.captions.json")
    assert CAPTION in [entry["caption"] for entry in json.loads(path.read_text(encoding="utf-8"))["captions"].values()]


def test_the_chart_grows_and_the_previews_fill(story: Any) -> None:
    assert story.early["kind"] == story.later["kind"] == "training"
    assert story.later["line"] > story.early["line"] > 0
    assert story.later["rows"][-1].startswith("base")
    assert story.later["previews"] >= 4


def test_a_reload_in_the_middle_changes_nothing(story: Any) -> None:
    assert story.reloaded["run"] == story.later["run"]
    assert story.reloaded["steps"] == STEPS
    assert story.reloaded["step"] >= story.later["step"]
    assert story.reloaded["previews"] >= story.later["previews"]


def test_stop_and_keep_gives_the_lora(story: Any, comfy_server: SimpleNamespace) -> None:
    assert story.stopped["kind"] != "training"
    assert 2 * EVERY < story.stopped["step"] < STEPS
    comfy = next(name for name in story.files if name.endswith(".safetensors") and "_fal" not in name)
    assert any(lora.endswith(comfy) for lora in story.loras)
    assert story.errors == []


def test_the_corrected_caption_is_what_was_trained_on(story: Any, comfy_server: SimpleNamespace) -> None:
    run_files = (comfy_server.output / "ideogram4_runs").glob("*/run.json")
    captions = [
        item["caption"] for path in run_files for item in json.loads(path.read_text(encoding="utf-8"))["data"]["items"]
    ]
    assert any('"quotes" 鸟 🐦' in caption for caption in captions)
