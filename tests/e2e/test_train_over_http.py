"""The whole way over ComfyUI's HTTP API: zip in, training, files out, files loaded by everybody."""

from __future__ import annotations

import base64
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import workflows
from datasets import dataset_zip
from safetensors import safe_open
from workflows import node, node_id


@pytest.fixture(scope="module")
def trained(comfy_server: SimpleNamespace) -> SimpleNamespace:
    """One training run through the server; its outputs, files and graph."""
    comfy_server.client.upload("dataset.zip", dataset_zip())
    graph = workflows.load("train_from_zip", steps=6)
    node(graph, "Ideogram4SaveLoRA")["filename_prefix"] = "loras/trained"
    outputs = comfy_server.client.run(graph)
    files = {
        Path(f["filename"]).name: comfy_server.output / f["subfolder"] / f["filename"]
        for f in outputs[node_id(graph, "Ideogram4SaveLoRA")]["files"]
    }
    return SimpleNamespace(graph=graph, outputs=outputs, files=files)


def tensors(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no mapping


def test_three_files_are_written_and_listed(comfy_server: SimpleNamespace, trained: SimpleNamespace) -> None:
    assert sorted(trained.files) == [
        "trained_00001.safetensors",
        "trained_00001_config.json",
        "trained_00001_fal.safetensors",
    ]
    assert all(path.parent == comfy_server.output / "loras" for path in trained.files.values())
    listed = comfy_server.client.get("/object_info/Ideogram4LoadLoRA")
    options = listed["Ideogram4LoadLoRA"]["input"]["required"]["lora_name"]
    assert "trained_00001.safetensors" in json.dumps(options)


def test_the_header_says_how_it_was_trained(trained: SimpleNamespace) -> None:
    with safe_open(trained.files["trained_00001.safetensors"], framework="pt") as file:
        metadata = file.metadata()
    settings = json.loads(metadata["ideogram4_lora_trainer.settings"])
    assert settings["steps"] == 6
    assert settings["rank"] == 8
    assert metadata["modelspec.resolution"] == "64x64"
    assert metadata["ss_sd_model_name"] == "ideogram4_tiny_bf16.safetensors"
    assert "lora_adapter_metadata" not in metadata
    assert str(Path.home()) not in json.dumps(metadata)


def test_config_holds_fals_fields_and_ours(trained: SimpleNamespace) -> None:
    config = json.loads(trained.files["trained_00001_config.json"].read_text())
    assert config["steps"] == 6
    assert config["resolution"] == "64x64"
    assert config["output_lora_format"] == "comfy + fal"
    assert config["image_count"] == 3
    assert config["ideogram4_lora_trainer"]["files"]["fal"] == "trained_00001_fal.safetensors"


def test_core_and_our_loader_make_the_same_picture_and_the_lora_matters(
    comfy_server: SimpleNamespace, trained: SimpleNamespace
) -> None:
    name = "trained_00001.safetensors"
    ours = workflows.load("text_to_image", model="bf16")
    node(ours, "Ideogram4LoadLoRA").update(lora_name=name, mode="merge", strength=4.0)
    core = workflows.load("text_to_image", model="bf16")
    core[node_id(core, "Ideogram4LoadLoRA")] = {
        "class_type": "LoraLoaderModelOnly",
        "inputs": {"model": node(core, "Ideogram4LoadLoRA")["model"], "lora_name": name, "strength_model": 4.0},
    }
    bypass = workflows.load("text_to_image", model="bf16")
    node(bypass, "Ideogram4LoadLoRA").update(lora_name=name, mode="bypass", strength=4.0)
    fal = workflows.load("text_to_image", model="bf16")
    node(fal, "Ideogram4LoadLoRA").update(lora_name="trained_00001_fal.safetensors", mode="merge", strength=4.0)
    none = workflows.load("text_to_image", model="bf16")
    node(none, "Ideogram4LoadLoRA").update(lora_name=name, strength=0.0)

    pictures = [pixels(comfy_server, graph) for graph in (ours, core, bypass, fal, none)]
    assert (pictures[0] == pictures[1]).all()
    assert abs(pictures[0].astype(int) - pictures[2]).max() <= 2
    assert abs(pictures[0].astype(int) - pictures[3]).max() <= 2
    assert abs(pictures[0].astype(int) - pictures[4]).max() > 8
    assert "lora key not loaded" not in comfy_server.log.read_text(errors="replace")


def test_both_files_load_in_diffusers_with_the_same_effect(
    trained: SimpleNamespace, tiny_models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import diffusers_ideogram4 as oracle
    import torch

    base = tensors(tiny_models / "diffusion_models" / "ideogram4_tiny_fp32.safetensors")
    deltas = {}
    for name in ("trained_00001.safetensors", "trained_00001_fal.safetensors"):
        transformer = oracle.load_lora(oracle.tiny_transformer(base), trained.files[name])
        deltas[name] = oracle.lora_deltas(transformer)
    assert not caplog.records, "diffusers complained"
    comfy, fal = deltas.values()
    assert len(comfy) == 10
    assert comfy.keys() == fal.keys()
    for path, delta in comfy.items():
        assert delta.any(), path
        assert torch.allclose(delta, fal[path], atol=1e-6), path


def pixels(server: SimpleNamespace, graph: workflows.Graph) -> Any:
    import numpy as np
    from PIL import Image

    (saved,) = server.client.run(graph)[node_id(graph, "SaveImage")]["images"]
    return np.asarray(Image.open(server.output / saved["subfolder"] / saved["filename"]))


def test_a_second_run_gives_the_same_bytes_under_another_name_and_encodes_nothing(
    comfy_server: SimpleNamespace, trained: SimpleNamespace
) -> None:
    encodings = list((comfy_server.base / "user").rglob("encodings/*/*.safetensors"))
    times = {path: path.stat().st_mtime_ns for path in encodings}
    assert len(encodings) >= 6
    comfy_server.client.post("/free", {"unload_models": True, "free_memory": True})
    graph = workflows.load("train_from_zip", steps=6)
    node(graph, "Ideogram4SaveLoRA")["filename_prefix"] = "loras/trained"
    outputs = comfy_server.client.run(graph)
    again = [f["filename"] for f in outputs[node_id(graph, "Ideogram4SaveLoRA")]["files"]]
    assert again[0] == "trained_00002.safetensors"
    first, second = (comfy_server.output / "loras" / f"trained_0000{n}.safetensors" for n in (1, 2))
    assert all((a == b).all() for a, b in zip(tensors(first).values(), tensors(second).values(), strict=True))
    assert {p: p.stat().st_mtime_ns for p in (comfy_server.base / "user").rglob("encodings/*/*.safetensors")} == times


def test_core_nodes_connect_to_the_trained_lora(comfy_server: SimpleNamespace) -> None:
    graph = workflows.load("train_from_zip", steps=2)
    train_id, model_id = node_id(graph, "Ideogram4TrainLoRA"), node_id(graph, "UNETLoader")
    sample = workflows.load("text_to_image")
    graph |= {f"s{key}": value for key, value in sample.items() if value["class_type"] != "Ideogram4LoadLoRA"}
    for added in (value for key, value in graph.items() if key.startswith("s")):
        for name, value in added["inputs"].items():
            if isinstance(value, list):
                added["inputs"][name] = [f"s{value[0]}", value[1]]
    graph["apply"] = {
        "class_type": "LoraModelLoader",
        "inputs": {"model": [model_id, 0], "lora": [train_id, 0], "strength_model": 1.0, "bypass": False},
    }
    node({k: v for k, v in graph.items() if k.startswith("s")}, "CFGOverride")["model"] = ["apply", 0]
    graph["core_save"] = {
        "class_type": "SaveLoRA",
        "inputs": {"lora": [train_id, 0], "prefix": "loras/core", "steps": [train_id, 2]},
    }
    comfy_server.client.run(graph)
    assert (comfy_server.output / "loras" / "core_2_steps_00001_.safetensors").exists()


@pytest.mark.parametrize("fmt", ["fp8_scaled", "nvfp4", "int8_convrot"])
def test_quantised_bases_train_and_apply_in_bypass(comfy_server: SimpleNamespace, fmt: str, trained: Any) -> None:
    graph = workflows.load("train_from_zip", model=fmt, steps=2)
    node(graph, "Ideogram4SaveLoRA")["filename_prefix"] = f"loras/{fmt}"
    comfy_server.client.run(graph)
    sample = workflows.load("text_to_image", model=fmt)
    node(sample, "Ideogram4LoadLoRA")["lora_name"] = f"{fmt}_00001.safetensors"
    comfy_server.client.run(sample)


def test_image_to_image_with_three_loras(comfy_server: SimpleNamespace, trained: SimpleNamespace) -> None:
    from datasets import picture

    comfy_server.client.upload("start.png", picture(2))
    graph = workflows.load("image_to_image", model="fp8_scaled")
    node(graph, "LoadImage")["image"] = "start.png"
    for name, loaded in zip(
        ("trained_00001.safetensors", "trained_00001_fal.safetensors", "trained_00001.safetensors"),
        (n for n in graph.values() if n["class_type"] == "Ideogram4LoadLoRA"),
        strict=True,
    ):
        loaded["inputs"]["lora_name"] = name
    with_loras = pixels(comfy_server, graph)
    for loaded in (n for n in graph.values() if n["class_type"] == "Ideogram4LoadLoRA"):
        loaded["inputs"]["strength"] = 0.0
    without = pixels(comfy_server, graph)
    assert with_loras.shape == (64, 64, 3)
    assert (with_loras != without).any()


def test_cancel_is_noticed_and_the_server_stays_usable(comfy_server: SimpleNamespace) -> None:
    graph = workflows.load("train_from_zip", steps=40_000)
    node(graph, "Ideogram4TrainLoRA")["seed"] = 99
    prompt = comfy_server.client.queue(graph)
    threading.Timer(3.0, comfy_server.client.interrupt).start()
    started = time.monotonic()
    record = comfy_server.client.wait(prompt, timeout_s=60)
    assert record["status"]["status_str"] == "error"
    assert any(kind == "execution_interrupted" for kind, _ in record["status"]["messages"])
    assert time.monotonic() - started < 30
    comfy_server.client.run(workflows.load("train_from_zip", steps=2))


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("loras/", "loras/ideogram4_"), ("", "loras/ideogram4_"), ("plain", "plain_"), ("loras/a/b", "loras/a/b_")],
)
def test_prefixes_always_give_a_visible_name(comfy_server: SimpleNamespace, prefix: str, expected: str) -> None:
    graph = workflows.load("train_from_zip", steps=2)
    node(graph, "Ideogram4SaveLoRA")["filename_prefix"] = prefix
    files = comfy_server.client.run(graph)[node_id(graph, "Ideogram4SaveLoRA")]["files"]
    first = files[0]
    assert f"{first['subfolder']}/{first['filename']}".lstrip("/").startswith(expected)


def test_a_linked_address_trains_once(comfy_server: SimpleNamespace) -> None:
    """ComfyUI cannot see a linked value beforehand; that must neither fail nor train again on every queue."""
    address = "data:application/zip;base64," + base64.b64encode(dataset_zip()).decode()
    graph = workflows.load("train_from_zip", steps=2, dataset="none")
    node(graph, "Ideogram4LoadDataset")["url"] = ["address", 0]
    graph["address"] = {"class_type": "PrimitiveString", "inputs": {"value": address}}
    comfy_server.client.run(graph)
    record = comfy_server.client.wait(comfy_server.client.queue(graph))
    (cached,) = (detail["nodes"] for kind, detail in record["status"]["messages"] if kind == "execution_cached")
    assert node_id(graph, "Ideogram4TrainLoRA") in cached
