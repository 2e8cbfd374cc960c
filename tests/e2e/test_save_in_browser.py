"""The list of saved files on the save node, in ComfyUI's own frontend. Skipped as test_workflows_in_browser.py is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import browser
import datasets
import pytest
import workflows

import example_workflows as examples

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())


def tiny_training(dataset: str) -> dict[str, Any]:
    """The training example as it is opened, with the tiny models and three steps filled in."""
    graph = workflows.load("train_from_zip", model="fp8_scaled", dataset=dataset)
    workflow = examples.load_ui("train_from_zip")
    for node in workflow["nodes"]:
        node["properties"].pop("models", None)
        inputs = graph.get(str(node["id"]), {"inputs": {}})["inputs"]
        typed = [value for value in inputs.values() if not isinstance(value, list)]
        node["widgets_values"] = [*typed, *node.get("widgets_values", [])[len(typed) :]]
    return workflow


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "nodes 2.0"])
def shown(request: pytest.FixtureRequest, comfy_server: SimpleNamespace) -> Any:
    comfy_server.client.post("/history", {"clear": True})
    dataset = comfy_server.client.upload(f"saved_{request.param}.zip", datasets.dataset_zip(3))
    payload = {"url": comfy_server.client.url, "workflow": tiny_training(dataset), "vueNodes": request.param}
    return browser.run_script("save_panel.mjs", payload)


def test_nothing_is_shown_before_there_is_something(shown: Any) -> None:
    assert shown["before"] is None


def test_every_file_is_listed_with_its_size_and_a_link_that_gives_it(shown: Any, comfy_server: SimpleNamespace) -> None:
    listed = shown["after"]
    assert listed["folder"] == "In output/loras"
    assert [file["name"].partition("ideogram4_0")[2][4:] for file in listed["files"]] == [
        ".safetensors",
        "_fal.safetensors",
        "_config.json",
    ]
    for file in listed["files"]:
        on_disk = comfy_server.output / "loras" / file["name"]
        assert (file["status"], file["bytes"]) == (200, on_disk.stat().st_size)
        assert file["name"] in file["text"]
        assert any(unit in file["text"] for unit in (" B", " KB", " MB"))


def test_the_list_has_room(shown: Any) -> None:
    assert not shown["after"]["scrolls"]
    assert shown["after"]["height"] > 100


def test_the_list_is_there_again_after_a_reload(shown: Any) -> None:
    assert shown["reloaded"]["files"] == shown["after"]["files"]


def test_it_adds_nothing_to_what_is_sent_or_saved(shown: Any) -> None:
    (sent,) = (n["inputs"] for n in shown["prompt"].values() if n["class_type"] == "Ideogram4SaveLoRA")
    assert set(sent) == {"lora", "filename_prefix", "output_lora_format"}
    assert shown["values"] == ["loras/ideogram4", "comfy + fal"]
