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


@pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())
@pytest.mark.parametrize("vue_nodes", [False, True], ids=["canvas", "nodes 2.0"])
def test_it_opens_and_trains(comfy_server: SimpleNamespace, vue_nodes: bool) -> None:
    comfy_server.client.post("/history", {"clear": True})
    dataset = comfy_server.client.upload(f"blueprint_{vue_nodes}.zip", datasets.dataset_zip(3))
    payload: dict[str, Any] = {
        "url": comfy_server.client.url,
        "blueprint": BLUEPRINT,
        "vueNodes": vue_nodes,
        "loaders": LOADERS,
        "save": "Ideogram4SaveLoRA",
        "values": {"dataset": dataset, "resolution": "custom", "steps": 3, "rank": 8},
        "inside": {"Ideogram4ResolveResolution": {"custom": "64x64"}},
    }
    opened = browser.run_script("blueprint.mjs", payload)
    assert opened["unknown"] == opened["broken"] == []
    assert opened["widgets"][0] == "dataset"
    (files,) = (output["files"] for output in opened["outputs"] if "files" in output)
    assert opened["panel"] == len(files) == 3
    config = json.loads((comfy_server.output / "loras" / files[-1]["filename"]).read_text(encoding="utf-8"))
    assert (config["steps"], config["resolution"]) == (3, "64x64")
