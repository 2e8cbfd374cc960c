"""The panel of a run on the train node, in ComfyUI's own frontend. Skipped as test_workflows_in_browser.py is."""

from __future__ import annotations

import json
import math
import uuid
from types import SimpleNamespace
from typing import Any

import browser
import datasets
import pytest
import workflows

import example_workflows as examples

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())

STEPS = 20_000
"""More than are done before the test stops the run."""


def tiny_training(dataset: str, name: str) -> dict[str, Any]:
    """The training example as it is opened, with the tiny models and a long run filled in."""
    graph = workflows.load("train_from_zip", model="fp8_scaled", dataset=dataset, steps=STEPS)
    workflows.node(graph, "Ideogram4TrainLoRA")["run_name"] = name
    workflows.node(graph, "Ideogram4SaveLoRA")["filename_prefix"] = f"loras/{name}"
    workflow = examples.load_ui("train_from_zip")
    workflow["id"] = str(uuid.uuid4())  # another one than those whose runs the server already knows
    for node in workflow["nodes"]:
        node["properties"].pop("models", None)
        inputs = graph.get(str(node["id"]), {"inputs": {}})["inputs"]
        typed = [value for value in inputs.values() if not isinstance(value, list)]
        node["widgets_values"] = [*typed, *node.get("widgets_values", [])[len(typed) :]]
    return workflow


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "nodes 2.0"])
def seen(request: pytest.FixtureRequest, comfy_server: SimpleNamespace) -> Any:
    client = comfy_server.client
    client.post("/history", {"clear": True})
    name = f"watched_{'vue' if request.param else 'canvas'}"
    dataset = client.upload(f"{name}.zip", datasets.dataset_zip(3))
    payload = {"url": client.url, "workflow": tiny_training(dataset, name), "vueNodes": request.param}
    told = browser.run_script("run_panel.mjs", payload)
    journal = comfy_server.output / "ideogram4_runs" / f"{name}_00001" / "journal.jsonl"
    told["journal"] = [json.loads(line) for line in journal.read_text().splitlines()]
    told["loras"] = sorted(path.name for path in (comfy_server.output / "loras").glob(f"{name}_0*"))
    return told


def events(seen: Any, kind: str) -> list[dict[str, Any]]:
    return [event for event in seen["journal"] if event["event"] == kind]


def test_before_a_run_it_says_so_and_nothing_can_be_asked(seen: Any) -> None:
    assert seen["before"] == {"kind": "none", "buttons": [True, True, True]}


def test_the_chart_and_the_progress_grow_while_it_trains(seen: Any) -> None:
    early, later = seen["early"], seen["later"]
    assert early["state"] == later["state"] == "Training"
    assert 0 < early["step"] < later["step"] <= later["steps"] == STEPS
    assert 0 < early["chart"] < later["chart"]
    assert f"of {STEPS} steps" in later["summary"]


def test_save_now_is_acknowledged_and_in_the_journal(seen: Any) -> None:
    step = int(seen["saved"]["said"].removeprefix("Saved at step ").rstrip(".").replace(",", ""))
    assert step in {event["step"] for event in events(seen, "checkpoint")}


def test_preview_now_fills_the_grid_and_a_picture_opens_large(seen: Any) -> None:
    assert seen["previewed"]["previews"] >= 2
    assert {event["prompt"] for event in events(seen, "preview")} == {0, 1}
    large = seen["large"]
    assert "a red circle" in large["first"] and "prompt 1" in large["first"] and "seed 0" in large["first"]
    assert "a blue square" in large["second"] and "prompt 2" in large["second"]
    assert "without guidance" in large["first"]
    assert large["open"] == 0, "Escape closes it"


@pytest.mark.parametrize("stage", ["reloaded", "second"])
def test_a_reload_and_a_second_tab_show_the_journal(seen: Any, stage: str) -> None:
    shown = seen[stage]
    assert shown["kind"] == "training"
    assert shown["run"] == seen["later"]["run"]
    assert shown["step"] >= seen["later"]["step"]
    assert shown["previews"] == seen["previewed"]["previews"]
    (first,) = (event for event in events(seen, "step") if event["step"] == 1)
    values = dict(pair.rsplit(" ", 1) for pair in shown["first"].split(", "))
    assert values["step"] == "1"
    assert math.isclose(float(values["loss"]), first["loss"], rel_tol=1e-2)
    assert math.isclose(float(values["rate"]), first["learning_rate"], rel_tol=0.1)


def test_stop_and_keep_asks_once_and_hands_the_lora_on(seen: Any) -> None:
    assert "the LoRA goes on to the save node" in seen["asked"]
    (stopped,) = events(seen, "stopped")
    assert stopped["reason"] == "kept"
    assert seen["stopped"]["state"] == seen["stoppedInFirst"]["state"] == "Stopped and kept"
    assert seen["stopped"]["step"] == seen["stoppedInFirst"]["step"] == stopped["step"] < STEPS
    assert seen["stopped"]["buttons"] == [True, True, True]
    assert any(name.endswith(".safetensors") for name in seen["loras"])


def test_the_files_of_the_run_are_linked(seen: Any) -> None:
    assert {"loss.csv", "loss.png"} <= set(seen["stopped"]["files"])


def test_it_adds_nothing_to_what_is_sent_or_saved(seen: Any) -> None:
    (sent,) = (n["inputs"] for n in seen["prompt"].values() if n["class_type"] == "Ideogram4TrainLoRA")
    assert "run" not in sent
    assert seen["values"][0] == STEPS
    assert len(seen["values"]) == len([value for value in sent.values() if not isinstance(value, list)])


def test_the_page_has_no_error(seen: Any) -> None:
    assert seen["errors"] == []
