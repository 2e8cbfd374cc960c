"""A run that is cancelled, and one whose server is killed, are gone on with through the real server."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import tiny_host as host
import workflows
from datasets import dataset_zip
from safetensors import safe_open
from workflows import node, node_id

STEPS = 60
RUNS = "ideogram4_runs"


def training_graph(name: str, *, steps: int = STEPS, **inputs: Any) -> workflows.Graph:
    graph = workflows.load("train_from_zip", steps=steps, dataset="resume.zip")
    node(graph, "Ideogram4TrainLoRA").update(run_name=name, **inputs)
    node(graph, "Ideogram4SaveLoRA")["filename_prefix"] = f"loras/{name}"
    graph["10"] = {
        "class_type": "Ideogram4TrainSettings",
        "inputs": {
            "batch_size": 1,
            "gradient_accumulation": 1,
            "schedule": "cosine",
            "warmup_steps": 5,
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "sigma_mu": 0.0,
            "sigma_std": 1.5,
            "train_modulation": False,
            "rank_stabilized": False,
            "gradient_checkpointing": True,
            "latent_statistics": "ideogram",
            "checkpoint_every": 7,
        },
    }
    node(graph, "Ideogram4TrainLoRA")["settings"] = ["10", 0]
    return graph


def journal(output: Path, run: str) -> list[dict[str, Any]]:
    path = output / RUNS / run / "journal.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_step(output: Path, run: str, step: int) -> None:
    deadline = time.monotonic() + 120
    while not any(event["event"] == "step" and event["step"] >= step for event in journal(output, run)):
        assert time.monotonic() < deadline, journal(output, run)[-3:]
        time.sleep(0.01)


def lora_hash(outputs: dict[str, Any], graph: workflows.Graph, output: Path) -> str:
    """ModelSpec's hash over all tensors of the saved LoRA."""
    files = outputs[node_id(graph, "Ideogram4SaveLoRA")]["files"]
    (name,) = (f["filename"] for f in files if not f["filename"].endswith(("_fal.safetensors", ".json")))
    with safe_open(output / "loras" / name, framework="pt") as file:
        return file.metadata()["modelspec.hash_sha256"]


def runs_to_choose_from(client: host.Client) -> list[str]:
    listed = client.get("/object_info/Ideogram4TrainLoRA")["Ideogram4TrainLoRA"]["input"]["optional"]["resume"]
    return listed[1]["options"] if isinstance(listed[0], str) else listed[0]


@pytest.fixture(scope="module")
def uninterrupted(comfy_server: SimpleNamespace) -> str:
    comfy_server.client.upload("resume.zip", dataset_zip())
    graph = training_graph("whole")
    return lora_hash(comfy_server.client.run(graph), graph, comfy_server.output)


def test_cancel_then_resume_from_the_list_then_finish(comfy_server: SimpleNamespace, uninterrupted: str) -> None:
    client, output = comfy_server.client, comfy_server.output
    prompt = client.queue(training_graph("cancelled"))
    wait_for_step(output, "cancelled_00001", 20)
    client.interrupt(prompt)
    record = client.wait(prompt)
    assert any(kind == "execution_interrupted" for kind, _ in record["status"]["messages"])

    stopped = next(e for e in journal(output, "cancelled_00001") if e["event"] == "stopped")
    assert 20 <= stopped["step"] < STEPS
    assert stopped["lora"] and stopped["lora"] in stopped["message"]
    assert (output / "loras" / stopped["lora"]).is_file()
    # The LoRA so far is in every loader's list and makes a picture.
    preview = workflows.load("text_to_image")
    node(preview, "Ideogram4LoadLoRA")["lora_name"] = stopped["lora"]
    client.run(preview)

    assert "cancelled_00001" in runs_to_choose_from(client)
    graph = training_graph("cancelled", resume="cancelled_00001")
    assert lora_hash(client.run(graph), graph, output) == uninterrupted
    events = [e["event"] for e in journal(output, "cancelled_00001")]
    assert events[0] == "started" and events[-1] == "finished" and "resumed" in events


def test_a_changed_graph_is_refused_with_what_changed(comfy_server: SimpleNamespace, uninterrupted: str) -> None:
    graph = training_graph("whole", resume="whole_00001", learning_rate=5e-4)
    record = comfy_server.client.wait(comfy_server.client.queue(graph))
    failure = host.failure(record)
    assert "whole_00001, at step 60, was started differently: learning_rate: 0.002 before, 0.0005 now." in failure


@pytest.mark.parametrize("value", ["gone_00001", "../whole_00001", "/etc", "a\0b"])
def test_a_run_that_is_not_there_is_refused_before_anything_runs(
    comfy_server: SimpleNamespace, uninterrupted: str, value: str
) -> None:
    with pytest.raises(host.HostError, match=r"whole_00001|outside of ideogram4_runs"):
        comfy_server.client.queue(training_graph("x", resume=value))


def test_a_run_that_begins_with_a_lora_of_the_list(comfy_server: SimpleNamespace, uninterrupted: str) -> None:
    graph = training_graph("second", steps=3, start_from_lora="whole_00001.safetensors")
    outputs = comfy_server.client.run(graph)
    config = next(f for f in outputs[node_id(graph, "Ideogram4SaveLoRA")]["files"] if f["filename"].endswith(".json"))
    text = (comfy_server.output / config["subfolder"] / config["filename"]).read_text()
    assert json.loads(text)["ideogram4_lora_trainer"]["start_lora"] == "whole_00001.safetensors"


def test_a_browser_tab_that_is_closed_changes_nothing(comfy_server: SimpleNamespace, uninterrupted: str) -> None:
    client, output = comfy_server.client, comfy_server.output
    graph = training_graph("tab")

    async def watch_a_little() -> str:
        url = f"{client.url}/ws?clientId={client.client_id}"
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
            prompt = await asyncio.to_thread(client.queue, graph)
            await asyncio.to_thread(wait_for_step, output, "tab_00001", 5)
            await socket.receive()
        return prompt

    record = client.wait(asyncio.run(watch_a_little()))
    assert record["status"]["status_str"] == "success"
    assert lora_hash(record["outputs"], graph, output) == uninterrupted


@pytest.fixture
def own_server(tiny_models: Path, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """`own_server()` starts a server on the same folders each time; gives a context with its client."""
    host.install_packs(tmp_path, tiny=True)

    def start() -> Any:
        port = host.free_port()
        command = host.server_command(
            Path(sys.executable), Path(sys.modules["comfy"].__path__[0]).parent, port=port, base=tmp_path,
            models=tiny_models, cpu=True,
        )  # fmt: skip
        return host.running_server(command, port=port, log=tmp_path / "server.log")

    yield start


def test_the_server_is_killed_and_started_again(
    own_server: Callable[[], Any], tmp_path: Path, uninterrupted: str
) -> None:
    output = tmp_path / "output"
    with own_server() as client:
        client.upload("resume.zip", dataset_zip())
        client.queue(training_graph("killed"))
        wait_for_step(output, "killed_00001", 24)
        client.process.kill()
        client.process.wait()
    with own_server() as client:
        assert runs_to_choose_from(client) == ["new run", "killed_00001"]
        graph = training_graph("killed", resume="killed_00001")
        assert lora_hash(client.run(graph), graph, output) == uninterrupted
    (resumed,) = (e for e in journal(output, "killed_00001") if e["event"] == "resumed")
    assert resumed["step"] >= 21, "at most the steps since the last checkpoint were done again"
