"""The subgraph blueprint: listed by the server, and run in ComfyUI's own frontend.

The parts in a browser are skipped as test_workflows_in_browser.py is.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import browser
import datasets
import pytest

import example_workflows as examples

BLUEPRINT = json.loads(examples.BLUEPRINT.read_text(encoding="utf-8"))
LOADERS = [
    ["UNETLoader", {"unet_name": "ideogram4_tiny_fp8_scaled.safetensors"}, "model"],
    ["CLIPLoader", {"clip_name": "qwen3vl_tiny.safetensors", "type": "ideogram4"}, "clip"],
    ["VAELoader", {"vae_name": "flux2_tiny_vae.safetensors"}, "vae"],
]


def test_the_server_offers_it(comfy_server: SimpleNamespace) -> None:
    offered = comfy_server.client.get("/global_subgraphs")
    (found,) = (key for key, entry in offered.items() if entry["name"] == examples.BLUEPRINT.stem)
    assert json.loads(comfy_server.client.get(f"/global_subgraphs/{found}")["data"]) == BLUEPRINT


def test_model_vae_and_clip_go_in_and_a_lora_comes_out() -> None:
    (node,) = BLUEPRINT["nodes"]
    (subgraph,) = BLUEPRINT["definitions"]["subgraphs"]
    assert node["type"] == subgraph["id"]
    sockets = {slot["name"]: slot["type"] for slot in node["inputs"] if "widget" not in slot}
    assert {sockets[name] for name in ("model", "vae", "clip")} == {"MODEL", "VAE", "CLIP"}
    assert "LORA_MODEL" in [slot["type"] for slot in node["outputs"]]
    assert all(slot["link"] is None for slot in node["inputs"])
    assert subgraph["description"] and subgraph["category"]


def test_wires_inside_lead_from_left_to_right() -> None:
    (subgraph,) = BLUEPRINT["definitions"]["subgraphs"]
    place = {node["id"]: (node["pos"][0], node["pos"][0] + node["size"][0]) for node in subgraph["nodes"]}
    for end in ("inputNode", "outputNode"):
        left, _top, width, _height = subgraph[end]["bounding"]
        place[subgraph[end]["id"]] = (left, left + width)
    for link in subgraph["links"]:
        (_, right_of_origin), (left_of_target, _) = place[link["origin_id"]], place[link["target_id"]]
        assert right_of_origin < left_of_target, link


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "nodes 2.0"])
def opened(
    request: pytest.FixtureRequest, comfy_server: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """The blueprint, with a dataset dropped on its node, and then another one inside, which it is trained on."""
    if reason := browser.missing():
        pytest.skip(reason)
    comfy_server.client.post("/history", {"clear": True})
    folder = tmp_path_factory.mktemp("drops")
    drops = {name: folder / f"{name}_{request.param}.zip" for name in ("outside", "inside", "broken")}
    drops["outside"].write_bytes(datasets.dataset_zip(2))
    drops["inside"].write_bytes(datasets.dataset_zip(3))
    drops["broken"].write_bytes(datasets.dataset_zip(3)[:-200])
    payload: dict[str, Any] = {
        "url": comfy_server.client.url,
        "blueprint": BLUEPRINT,
        "vueNodes": request.param,
        "loaders": LOADERS,
        "save": "Ideogram4SaveLoRA",
        "values": {"resolution": "custom", "custom": "64x64", "steps": 3, "rank": 8},
        "drops": {name: str(path) for name, path in drops.items()},
    }
    told = browser.run_script("blueprint.mjs", payload)
    return {"names": {name: path.name for name, path in drops.items()}} | told


def test_it_opens_without_a_missing_node(opened: Any) -> None:
    assert opened["unknown"] == opened["broken"] == []
    assert opened["widgets"][0] == "dataset"


def test_a_zip_dropped_on_its_node_is_what_is_sent(opened: Any) -> None:
    outside, name = opened["outside"], opened["names"]["outside"]
    assert (outside["sent"], outside["outside"], outside["listed"]) == (name, name, True)


def test_a_zip_that_cannot_be_read_is_told_outside_and_changes_nothing(opened: Any) -> None:
    assert opened["names"]["broken"] in opened["refused"]["said"]
    assert opened["refused"]["sent"] == opened["names"]["outside"]


def test_inside_the_sheet_shows_what_is_chosen_outside(opened: Any) -> None:
    assert opened["shared"]["tiles"] == 2


def test_a_zip_dropped_inside_is_what_is_sent(opened: Any) -> None:
    inside, name = opened["inside"], opened["names"]["inside"]
    assert (inside["sent"], inside["outside"], inside["listed"]) == (name, name, True)
    assert inside["tiles"] == 3


def test_it_trains(opened: Any, comfy_server: SimpleNamespace) -> None:
    (files,) = (output["files"] for output in opened["outputs"] if "files" in output)
    assert opened["panel"] == len(files) == 3
    config = json.loads((comfy_server.output / "loras" / files[-1]["filename"]).read_text(encoding="utf-8"))
    assert (config["steps"], config["resolution"]) == (3, "64x64")


def test_no_error_is_thrown_in_the_page(opened: Any) -> None:
    assert opened["errors"] == []
