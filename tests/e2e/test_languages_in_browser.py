"""Chinese in ComfyUI's own frontend: nodes, panels and settings. Skipped as test_workflows_in_browser.py is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import browser
import pytest

import example_workflows as examples
import locales

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "nodes 2.0"])
def shown(request: pytest.FixtureRequest, comfy_server: SimpleNamespace) -> Any:
    payload = {"url": comfy_server.client.url, "workflow": examples.load_ui("train_from_zip")}
    return browser.run_script("languages.mjs", {**payload, "vueNodes": request.param})


def test_nodes_and_widgets_have_their_translated_names(shown: Any) -> None:
    chinese = locales.read("zh", locales.NODES)
    for node_id, title in shown["titles"].items():
        if node_id.startswith("Ideogram4"):
            assert title == chinese[node_id]["display_name"]
    inputs = chinese["Ideogram4TrainLoRA"]["inputs"]
    assert shown["labels"]["learning_rate"] == inputs["learning_rate"]["name"]
    assert shown["button"] == "预设…"


def test_every_text_of_a_module_is_translated_and_none_is_left_over(shown: Any) -> None:
    assert shown["missing"] == []
    assert shown["extra"] == []


def test_settings_say_in_english_what_the_locale_says(shown: Any) -> None:
    assert shown["settings"] == locales.read("en", "settings.json")
