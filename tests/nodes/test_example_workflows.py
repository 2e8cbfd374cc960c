"""The example workflows against the node definitions of a real server, without a browser."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

import example_workflows as examples

OUR_MODULE = f"custom_nodes.{examples.PACK}"
STOCK_MODULES = ("nodes", "comfy_extras.")
MAX_PICTURE_BYTES = 100_000
TITLE_HEIGHT = 30

each_example = pytest.mark.parametrize("name", examples.FILES)


@pytest.fixture(scope="module")
def schemas(comfy_server: SimpleNamespace) -> examples.Schemas:
    answer: examples.Schemas = comfy_server.client.get("/object_info")
    return answer


def test_every_example_has_an_api_graph_and_a_picture() -> None:
    assert sorted(path.stem for path in examples.FOLDER.glob("*.json")) == sorted(examples.FILES.values())
    assert sorted(path.stem for path in examples.FOLDER.glob("*.jpg")) == sorted(examples.FILES.values())
    assert {path.name.removesuffix(".api.json") for path in examples.API_FOLDER.iterdir()} == set(examples.FILES)


@each_example
def test_the_server_offers_it_as_a_template(comfy_server: SimpleNamespace, name: str) -> None:
    title = examples.FILES[name]
    assert title in comfy_server.client.get("/workflow_templates")[examples.PACK]
    picture = comfy_server.client.get(f"/api/workflow_templates/{examples.PACK}/{quote(title)}.jpg", raw=True)
    assert picture.startswith(b"\xff\xd8\xff")
    assert len(picture) < MAX_PICTURE_BYTES


@each_example
def test_it_needs_nothing_but_comfyui_and_this_pack(schemas: examples.Schemas, name: str) -> None:
    types = {node["type"] for node in examples.load_ui(name)["nodes"]} - examples.FRONTEND_ONLY
    modules = {kind: schemas[kind]["python_module"] for kind in types}
    assert OUR_MODULE in modules.values()
    strange = {k: m for k, m in modules.items() if m != OUR_MODULE and not m.startswith(STOCK_MODULES)}
    assert not strange


@each_example
def test_widgets_are_complete(schemas: examples.Schemas, name: str) -> None:
    for node in examples.load_ui(name)["nodes"]:
        if node["type"] not in examples.FRONTEND_ONLY:
            names = examples.widget_names(schemas[node["type"]])
            assert len(node.get("widgets_values", [])) == len(names), node["type"]


@each_example
def test_links_join_sockets_of_one_type(schemas: examples.Schemas, name: str) -> None:
    workflow = examples.load_ui(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, origin, out_slot, target, in_slot, kind in workflow["links"]:
        output, target_input = nodes[origin]["outputs"][out_slot], nodes[target]["inputs"][in_slot]
        assert link in output["links"]
        assert target_input["link"] == link
        assert schemas[nodes[origin]["type"]]["output"][out_slot] == kind
        assert examples.declared_inputs(schemas[nodes[target]["type"]])[target_input["name"]][0] == kind


@each_example
def test_it_is_the_graph_that_the_tests_run(schemas: examples.Schemas, name: str) -> None:
    prompt = examples.to_prompt(examples.load_ui(name), schemas)
    assert prompt == examples.expected_prompt(name, schemas)


@each_example
def test_prompts_reach_the_text_encoder_through_a_link(name: str) -> None:
    """Text typed into CLIPTextEncode loses its braces, which JSON prompts are made of."""
    for node in examples.load_ui(name)["nodes"]:
        if node["type"] == "CLIPTextEncode":
            assert next(i for i in node["inputs"] if i["name"] == "text")["link"] is not None


@each_example
def test_loaders_say_where_their_files_belong(name: str) -> None:
    loaders = [node for node in examples.load_ui(name)["nodes"] if node["type"] in examples.MODEL_FILES]
    assert loaders
    for node in loaders:
        (model,) = node["properties"]["models"]
        folder, _ = examples.MODEL_FILES[node["type"]]
        assert model["name"] == node["widgets_values"][0]
        assert model["directory"] == folder
        assert model["url"].endswith(f"/{model['directory']}/{model['name']}")


@each_example
def test_nothing_overlaps(name: str) -> None:
    workflow = examples.load_ui(name)
    for one, other in itertools.combinations(map(_box, workflow["nodes"]), 2):
        assert not _overlap(one, other), (one, other)
    for one, other in itertools.combinations([group["bounding"] for group in workflow["groups"]], 2):
        assert not _overlap(tuple(one), tuple(other)), (one, other)


def _box(node: dict[str, Any]) -> tuple[float, float, float, float]:
    """x, y, width and height with the title bar."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_HEIGHT, width, height + TITLE_HEIGHT


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    apart = (
        one[0] + one[2] <= other[0]
        or other[0] + other[2] <= one[0]
        or one[1] + one[3] <= other[1]
        or other[1] + other[3] <= one[1]
    )
    return not apart
