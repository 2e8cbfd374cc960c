"""Previews, comparison and requests as their users meet them: over the HTTP API of a real server."""

from __future__ import annotations

import io
import json
import time
import urllib.parse
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import workflows
from datasets import dataset_zip
from PIL import Image
from workflows import node, node_id

SIZE = 256  # the smallest that ComfyUI's scheduler node takes
SEED = 11
PROMPT = '{"compositional_deconstruction":{"background":"{blue|red} // sea","elements":[]}}'
TURBO = {"steps": 12, "mu": 0.5, "std": 1.75, "width": SIZE, "height": SIZE}


def training_graph(name: str, *, guided: bool = True, steps: int = 3, **previews: Any) -> workflows.Graph:
    graph = workflows.load("train_from_zip", model="fp8_scaled", dataset="previews.zip", steps=steps)
    node(graph, "Ideogram4TrainLoRA").update(run_name=name, previews=["90", 0], learning_rate=1e-2)
    node(graph, "Ideogram4SaveLoRA")["filename_prefix"] = f"loras/{name}"
    inputs: dict[str, Any] = {
        "clip": [node_id(graph, "CLIPLoader"), 0],
        "vae": [node_id(graph, "VAELoader"), 0],
        "prompts": PROMPT,
        "width": SIZE,
        "height": SIZE,
        "preset": "turbo",
        "every": 0,
        "seed": SEED,
        **previews,
    }
    if guided:
        name = "ideogram4_tiny_unconditional_fp8_scaled.safetensors"
        graph["91"] = {"class_type": "UNETLoader", "inputs": {"unet_name": name, "weight_dtype": "default"}}
        inputs["unconditional"] = ["91", 0]
    graph["90"] = {"class_type": "Ideogram4Previews", "inputs": inputs}
    return graph


def journal(server: SimpleNamespace, run: str) -> list[dict[str, Any]]:
    path = server.output / "ideogram4_runs" / run / "journal.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def view(server: SimpleNamespace, image: dict[str, str]) -> np.ndarray:
    query = urllib.parse.urlencode({key: image[key] for key in ("filename", "subfolder", "type")})
    with urllib.request.urlopen(f"{server.client.url}/view?{query}", timeout=60) as response:
        return pixels(response.read())


def stock_graph(lora: str, loader: dict[str, Any]) -> workflows.Graph:
    """Text to image as the example does it, at the size, seed and steps of the previews."""
    graph = workflows.load("text_to_image", model="fp8_scaled", size=SIZE)
    node(graph, "Ideogram4Scheduler").update(TURBO)
    node(graph, "RandomNoise")["noise_seed"] = SEED
    node(graph, "PrimitiveStringMultiline")["value"] = PROMPT
    own = node_id(graph, "Ideogram4LoadLoRA")
    model = graph[own]["inputs"]["model"]
    graph[own] = {**loader, "inputs": {"model": model, "lora_name": lora, **loader["inputs"]}}
    return graph


LOADERS = {
    "ours": {"class_type": "Ideogram4LoadLoRA", "inputs": {"strength": 1.0, "mode": "auto"}},
    "core's": {"class_type": "LoraLoaderBypassModelOnly", "inputs": {"strength_model": 1.0}},
}


@pytest.fixture(scope="module")
def trained(comfy_server: SimpleNamespace) -> Path:
    """The folder of a run with previews before step 1 and after the last."""
    comfy_server.client.upload("previews.zip", dataset_zip())
    comfy_server.client.run(training_graph("watched", every=100))
    return comfy_server.output / "ideogram4_runs" / "watched_00001"


@pytest.mark.parametrize("loader", LOADERS)
def test_a_preview_is_the_picture_of_the_stock_graph(comfy_server: SimpleNamespace, trained: Path, loader: str) -> None:
    preview = pixels((trained / "previews" / "step_000003_00.png").read_bytes())
    base = pixels((trained / "previews" / "step_000000_00.png").read_bytes())
    outputs = comfy_server.client.run(stock_graph("watched_00001.safetensors", LOADERS[loader]))
    (image,) = next(out["images"] for out in outputs.values() if "images" in out)
    made = view(comfy_server, image)
    assert made.shape == preview.shape == (SIZE, SIZE, 3)
    difference = np.abs(made.astype(int) - preview.astype(int))
    if loader == "ours":
        assert not difference.any()
    else:
        # Core's sum is rounded elsewhere; what was learnt changes the picture by far more.
        learnt = np.abs(base.astype(int) - preview.astype(int))
        assert difference.mean() < 0.1 * learnt.mean()


def test_the_journal_knows_the_node_and_the_prompts(trained: Path, comfy_server: SimpleNamespace) -> None:
    events = journal(comfy_server, "watched_00001")
    started = next(event for event in events if event["event"] == "started")
    assert started["origin"] == {"node": node_id(training_graph("x"), "Ideogram4TrainLoRA"), "workflow": ""}
    (about,) = (event for event in events if event["event"] == "previews")
    assert about["prompts"] == [PROMPT], "byte for byte"
    assert [(event["step"], event["prompt"]) for event in events if event["event"] == "preview"] == [(0, 0), (3, 0)]


def test_a_comparison_is_one_labelled_grid(comfy_server: SimpleNamespace, trained: Path) -> None:
    graph = training_graph("unused")
    keep = {node_id(graph, kind) for kind in ("CLIPLoader", "VAELoader", "Ideogram4Previews")} | {"91"}
    (model,) = (
        key for key, n in graph.items() if n["class_type"] == "UNETLoader" and "unconditional" not in str(n["inputs"])
    )
    graph = {key: value for key, value in graph.items() if key in keep | {model}}
    graph["90"]["inputs"]["prompts"] = f"a circle\n{PROMPT}"
    graph["95"] = {
        "class_type": "Ideogram4CompareLoRA",
        "inputs": {
            "model": [model, 0],
            "previews": ["90", 0],
            "lora_name": "watched_00001.safetensors",
            "run": trained.name,
            "strengths": "1, 0",
        },
    }
    (image,) = comfy_server.client.run(graph)["95"]["images"]
    grid = view(comfy_server, image)
    # base, the file and the run's step 3 side by side; two prompts down.
    assert grid.shape[1] > 3 * SIZE and grid.shape[0] > 2 * SIZE
    preview = pixels((trained / "previews" / "step_000003_00.png").read_bytes())
    assert _contains(grid, preview), "the same seed and prompt give the preview's picture"

    graph["95"]["inputs"]["strengths"] = "much"
    failed = comfy_server.client.wait(comfy_server.client.queue(graph))
    assert "strengths must be numbers from -10 to 10" in json.dumps(failed["status"])


def _contains(grid: np.ndarray, picture: np.ndarray) -> bool:
    height, width, _ = picture.shape
    corners = np.argwhere((grid[: 1 - height, : 1 - width] == picture[0, 0]).all(axis=2))
    return any(np.array_equal(grid[y : y + height, x : x + width], picture) for y, x in corners)


def test_stop_and_keep_over_http_reaches_the_save_node(comfy_server: SimpleNamespace, trained: Path) -> None:
    client = comfy_server.client
    prompt = client.queue(training_graph("kept", guided=False, steps=4000))
    deadline = time.monotonic() + 120
    while not any(event["event"] == "step" for event in journal(comfy_server, "kept_00001")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    body = json.dumps({"request": "stop"}).encode()
    url = f"{client.url}/ideogram4_lora_trainer/runs/kept_00001/requests"
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        assert json.load(response) == {"request": "stop"}
    record = client.wait(prompt)
    assert record["status"]["status_str"] == "success"
    stopped = next(event for event in journal(comfy_server, "kept_00001") if event["event"] == "stopped")
    assert stopped["reason"] == "kept" and 0 < stopped["step"] < 4000
    assert (comfy_server.output / "loras" / "kept_00001.safetensors").is_file()


def test_a_kept_run_that_is_resumed_goes_on_when_run_is_pressed_again(
    comfy_server: SimpleNamespace, trained: Path
) -> None:
    """Nothing in the graph changes between the two, so only the node can tell ComfyUI that its result is old."""
    client = comfy_server.client

    def stopped_after(steps: int) -> int:
        graph = training_graph("unused", guided=False, steps=4000)
        node(graph, "Ideogram4TrainLoRA").update(resume="kept_00001")
        prompt = client.queue(graph)
        deadline = time.monotonic() + 120
        run = comfy_server.output / "ideogram4_runs" / "kept_00001"
        while newest() < steps:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (run / "stop.request").touch()
        assert client.wait(prompt)["status"]["status_str"] == "success"
        return newest()

    def newest() -> int:
        return max(event["step"] for event in journal(comfy_server, "kept_00001") if event["event"] == "step")

    first = stopped_after(newest() + 1)
    second = stopped_after(first + 1)
    assert second > first
