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


def workflow_on_tiny_models() -> dict[str, Any]:
    """The example, at a size that a CPU trains in seconds."""
    workflow = examples.load_ui("train_and_watch")
    for node in workflow["nodes"]:
        match node["type"], node.get("title", ""):
            case "UNETLoader", title:
                twin = "unconditional_" if "Unconditional" in title else ""
                node["widgets_values"][0] = f"ideogram4_tiny_{twin}fp8_scaled.safetensors"
            case "CLIPLoader", _:
                node["widgets_values"][0] = "qwen3vl_tiny.safetensors"
            case "VAELoader", _:
                node["widgets_values"][0] = "flux2_tiny_vae.safetensors"
            case "Ideogram4ResolveResolution", _:
                node["widgets_values"] = ["custom", "64x64"]
            case "Ideogram4Previews", _:
                node["widgets_values"] = [
                    "a red circle at the left, blue fading to green\na yellow square",
                    64,
                    64,
                    "turbo",
                    EVERY,
                    0,
                ]
            case "Ideogram4TrainLoRA", _:
                node["widgets_values"][:4] = [STEPS, 1e-3, 16, 0]
        node["properties"].pop("models", None)
    return workflow


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "nodes 2.0"])
def story(
    request: pytest.FixtureRequest, comfy_server: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    pictures = host_pictures()
    zip_path = tmp_path_factory.mktemp("story") / ("shapes vue.zip" if request.param else "shapes.zip")
    zip_path.write_bytes(showcase.showcase_zip(pictures.draw_picture, troubles=False))
    payload = {
        "url": comfy_server.client.url,
        "workflow": workflow_on_tiny_models(),
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
