"""The example workflows in ComfyUI's own frontend: headless Chromium against a real server with nothing but this pack.

Skipped where Chromium, Node.js or playwright-core is missing (see tests/support/browser.py). What can be checked
without a browser is in tests/nodes/test_example_workflows.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import datasets
import pytest
import tiny_host as host  # loaded by tests/conftest.py

import example_workflows as examples

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())

COMFYUI = Path(os.environ.get("COMFYUI_ROOT") or examples.ROOT / ".dev" / "ComfyUI").resolve()
HOSTILE_PROMPT = (
    '{"a":{"b":"one|two {x|y} // not a comment"},"c":["https://example.org","\\\\{kept\\\\}","/* kept */"]}'
)
TYPED = [
    {"workflow": "train_from_zip", "type": "Ideogram4LoadDataset", "widget": "default_caption", "text": HOSTILE_PROMPT},
    {"workflow": "train_and_watch", "type": "Ideogram4Previews", "widget": "prompts", "text": HOSTILE_PROMPT},
    {"workflow": "text_to_image", "type": "PrimitiveStringMultiline", "widget": "value", "text": HOSTILE_PROMPT},
    {"workflow": "image_to_image", "type": "PrimitiveStringMultiline", "widget": "value", "text": HOSTILE_PROMPT},
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[host.Client]:
    """A server where every file that the examples name is in its list."""
    base = tmp_path_factory.mktemp("browser")
    models = examples.place_named_files(base, datasets.picture(2))
    host.install_packs(base, tiny=False)
    port = host.free_port()
    command = host.server_command(Path(sys.executable), COMFYUI, port=port, base=base, models=models, cpu=True)
    with host.running_server(command, port=port, log=base / "server.log") as client:
        yield client


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "nodes 2.0"])
def opened(request: pytest.FixtureRequest, client: host.Client) -> Any:
    """All examples, opened in one of the frontend's two ways of drawing nodes."""
    workflows = {name: examples.load_ui(name) for name in examples.FILES}
    return browser.run_script(
        "read_workflows.mjs", {"url": client.url, "workflows": workflows, "vueNodes": request.param}
    )


@pytest.mark.parametrize("name", examples.FILES)
def test_it_opens_whole_and_without_red_nodes(opened: Any, name: str) -> None:
    assert opened[name]["unknown"] == []
    assert opened[name]["broken"] == []
    assert opened[name]["count"] == len(examples.load_ui(name)["nodes"])


@pytest.mark.parametrize("name", examples.FILES)
def test_run_would_send_the_graph_that_the_tests_run(opened: Any, client: host.Client, name: str) -> None:
    schemas = client.get("/object_info")
    assert examples.declared_only(opened[name]["prompt"], schemas) == examples.expected_prompt(name, schemas)


def test_json_survives_where_it_is_typed(client: host.Client) -> None:
    """The frontend reads {a|b} and // in some text boxes as its own commands."""
    workflows = {name: examples.load_ui(name) for name in examples.FILES}
    opened = browser.run_script("read_workflows.mjs", {"url": client.url, "workflows": workflows, "typed": TYPED})
    for entry in TYPED:
        nodes = opened[entry["workflow"]]["prompt"].values()
        (sent,) = (n["inputs"][entry["widget"]] for n in nodes if n["class_type"] == entry["type"])
        assert sent == HOSTILE_PROMPT
