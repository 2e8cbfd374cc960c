"""Values that reach the nodes over links, which ComfyUI's validation does not see, in the real executor."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import workflows
from datasets import dataset_zip
from safetensors.torch import save_file
from trees import snapshot
from workflows import Graph, node

LINKS = {
    ("Ideogram4LoadDataset", "dataset"): ["../outside.zip", "/etc", "none", "", "\\\\server\\share\\a.zip", "a\nb"],
    ("Ideogram4LoadDataset", "url"): ["file:///etc/passwd", "http://127.0.0.1/a.zip", "../a.zip"],
    ("Ideogram4ResolveResolution", "resolution"): ["../auto", "", "64x64"],
    ("Ideogram4ResolveResolution", "custom"): ["0x0", "../64x64", ""],
    ("Ideogram4EncodeDataset", "caption_boxes"): ["", "move"],
    ("Ideogram4SaveLoRA", "filename_prefix"): [
        "../../escaped", "/tmp/escaped", "loras/../../escaped", "..\\escaped", "C:\\escaped",
        "loras/\u202egnp", "%x:y%",
    ],
    ("Ideogram4SaveLoRA", "output_lora_format"): ["", "../comfy"],
}  # fmt: skip


@pytest.fixture(scope="module")
def good_lora(comfy_server: SimpleNamespace) -> str:
    folder, key = comfy_server.output / "loras", "diffusion_model.layers.0.attention.o"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{key}.lora_A.weight": torch.zeros(4, 256), f"{key}.lora_B.weight": torch.zeros(256, 4)}
    save_file(tensors, folder / "good.safetensors")
    return "good.safetensors"


@pytest.fixture(scope="module")
def dataset(comfy_server: SimpleNamespace) -> str:
    return comfy_server.client.upload("tampered.zip", dataset_zip())


def linked(graph: Graph, class_type: str, name: str, value: str) -> Graph:
    """`graph` with one input fed by a link. A switch's output connects to any input, choices too."""
    graph["text"] = {"class_type": "PrimitiveString", "inputs": {"value": value}}
    both = {"on_true": ["text", 0], "on_false": ["text", 0]}
    graph["switch"] = {"class_type": "ComfySwitchNode", "inputs": {"switch": True, **both}}
    node(graph, class_type)[name] = ["switch", 0]
    return graph


def outcome(server: SimpleNamespace, graph: Graph) -> dict[str, Any]:
    """What the executor says of the node that failed."""
    record = server.client.wait(server.client.queue(graph))
    assert record["status"]["status_str"] == "error", "the graph ran"
    (detail,) = (detail for kind, detail in record["status"]["messages"] if kind == "execution_error")
    return detail


@pytest.mark.parametrize(("target", "value"), [(target, value) for target, values in LINKS.items() for value in values])
def test_training(comfy_server: SimpleNamespace, dataset: str, target: tuple[str, str], value: str) -> None:
    class_type, name = target
    graph = workflows.load("train_from_zip", dataset=dataset, steps=2)
    before = files(comfy_server)
    detail = outcome(comfy_server, linked(graph, class_type, name, value))
    assert detail["node_type"] == class_type
    assert ".trainer_core." in detail["exception_type"], detail["exception_message"]
    assert files(comfy_server) == before


@pytest.mark.parametrize(
    ("name", "value"), [("lora_name", "../x.safetensors"), ("lora_name", "/etc/passwd"), ("mode", "both"), ("mode", "")]
)
def test_loading(comfy_server: SimpleNamespace, good_lora: str, name: str, value: str) -> None:
    graph = workflows.load("text_to_image")
    node(graph, "Ideogram4LoadLoRA")["lora_name"] = good_lora
    before = files(comfy_server)
    detail = outcome(comfy_server, linked(graph, "Ideogram4LoadLoRA", name, value))
    assert detail["node_type"] == "Ideogram4LoadLoRA"
    assert ".trainer_core." in detail["exception_type"], detail["exception_message"]
    assert files(comfy_server) == before


def test_honest_values_pass_over_the_same_links(comfy_server: SimpleNamespace, dataset: str) -> None:
    graph = workflows.load("train_from_zip", dataset="none", steps=2)
    graph = linked(graph, "Ideogram4LoadDataset", "dataset", dataset)
    node(graph, "Ideogram4SaveLoRA")["filename_prefix"] = "loras/by_link"
    comfy_server.client.run(graph)
    assert (comfy_server.output / "loras" / "by_link_00001.safetensors").is_file()


def files(server: SimpleNamespace) -> tuple[set[str], dict[str, tuple[object, ...]]]:
    """What lies around ComfyUI's folders and in them, but for its own log, its caches and the training runs."""
    own = ("server.log", "user/", "temp/", "custom_nodes/", "output/ideogram4_runs/")
    told = {name: what for name, what in snapshot(server.base).items() if what[0] != "folder"}
    around = {path.name for path in server.base.parent.iterdir()}
    return around, {name: what for name, what in told.items() if not name.startswith(own)}
