"""The presets of the train node, in ComfyUI's own frontend. Skipped as test_workflows_in_browser.py is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import browser
import datasets
import pytest
from ideogram4_lora_trainer.trainer_core.config import TrainSettings

import example_workflows as examples

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())

TRAIN, RESOLUTION = "Ideogram4TrainLoRA", "Ideogram4ResolveResolution"
COUNT, SIZE = 20, (1600, 1200)


@pytest.fixture(scope="module")
def dataset(comfy_server: SimpleNamespace) -> str:
    return comfy_server.client.upload("presets.zip", datasets.dataset_zip(COUNT, size=SIZE))


def use(comfy_server: SimpleNamespace, dataset: str, **chosen: Any) -> Any:
    workflow = examples.load_ui("train_from_zip")
    for node in workflow["nodes"]:
        if node["type"] == "Ideogram4LoadDataset":
            node["widgets_values"][0] = dataset
    return browser.run_script("presets.mjs", {"url": comfy_server.client.url, "workflow": workflow, **chosen})


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "nodes 2.0"])
def used(request: pytest.FixtureRequest, comfy_server: SimpleNamespace, dataset: str) -> Any:
    """Character on 8 GB, with the learning rate left as it is."""
    chosen = {"goal": "character", "card": "8", "leave": "learning_rate"}
    return use(comfy_server, dataset, vueNodes=request.param, **chosen)


def test_what_is_ticked_is_set_and_nothing_else(used: Any) -> None:
    before, after = used["before"], used["after"]
    changed = {key for key in after[TRAIN] if after[TRAIN][key] != before[TRAIN][key]}
    assert changed == {"steps", "rank"}
    assert after[RESOLUTION]["resolution"] == "custom"
    assert all(f"{after[TRAIN][name]}" in used["said"] for name in changed)


def test_the_images_decide_about_size_and_steps(used: Any) -> None:
    width, height = map(int, used["after"][RESOLUTION]["custom"].split("x"))
    assert width % 16 == height % 16 == 0
    assert 0.8 * 768**2 < width * height <= 768**2
    assert abs(width / height - SIZE[0] / SIZE[1]) < 0.05
    seen = round(used["after"][TRAIN]["steps"] / COUNT)
    assert any(f"{COUNT} images is seen about {seen} times" in row for row in used["rows"])


def test_every_row_says_why_and_memory_is_called_a_prediction(used: Any) -> None:
    assert all(len(row.split("\t")[-1]) > 20 for row in used["rows"])
    assert used["words"].startswith("Predicted for fp8")
    assert "8 GB" in used["words"]


def test_workflow_and_prompt_hold_plain_values_and_nothing_of_the_presets(used: Any) -> None:
    names = list(used["sent"])
    assert used["saved"] == [value for value in used["sent"].values() if not isinstance(value, list)]
    assert {"presets", "run"}.isdisjoint(names)
    TrainSettings(**{name: used["sent"][name] for name in ("steps", "learning_rate", "rank", "seed")})


def test_it_can_be_undone(used: Any) -> None:
    assert used["undone"][RESOLUTION] == used["before"][RESOLUTION]
    assert {k: used["undone"][TRAIN][k] for k in ("steps", "rank")} == {
        k: used["before"][TRAIN][k] for k in ("steps", "rank")
    }


def test_a_large_card_leaves_the_size_to_the_images(comfy_server: SimpleNamespace, dataset: str) -> None:
    chosen = {"Ideogram4LoraTrainer.Card": "24"}
    used = use(comfy_server, dataset, goal="style", card="32", vueNodes=False, settings=chosen)
    assert used["offered"] == "24", "the card of the settings"
    assert used["after"][RESOLUTION]["resolution"] == "auto"
    assert used["after"][TRAIN]["rank"] == 32
