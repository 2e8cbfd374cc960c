"""Ideogram's life cycle on a real ComfyUI, from an empty dataset to a trained model, as a script would walk it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from datasets import dataset_zip
from ideogram_client import IdeogramClient, captioned, reasons

STEPS = 100
"""The fewest that are taken."""


@pytest.fixture(scope="module")
def client(api_server: Any) -> IdeogramClient:
    return IdeogramClient(api_server.api, api_server.key, api_server.certificate)


def wait(client: IdeogramClient, model_id: str) -> tuple[dict[str, Any], list[str]]:
    """The model when it is ready or has failed, and the statuses it had."""
    statuses: list[str] = []
    while True:
        model = client.get(f"/models/{model_id}").json()["model"]
        if model["status"] not in statuses:
            statuses.append(model["status"])
        if model["status"] in ("COMPLETED", "ERRORED"):
            return model, statuses
        time.sleep(0.2)


def options(api_server: Any, node: str, name: str) -> str:
    """What a node lists for one of its inputs."""
    return json.dumps(api_server.client.get(f"/object_info/{node}")[node]["input"]["required"][name])


def train(client: IdeogramClient, dataset: dict[str, Any], version: str = "v3", **values: Any) -> requests.Response:
    values = {"dataset_id": dataset["dataset_id"], "model_name": "Discs and bars", "steps": STEPS, **values}
    return client.post(f"/v1/ideogram-{version}/train-model", values)


def test_from_an_empty_dataset_to_a_trained_model(client: IdeogramClient, api_server: Any) -> None:
    before = client.get("/datasets").json()["datasets"]
    dataset = client.create("Discs and bars")
    assert client.get("/datasets").json()["datasets"] == [dataset, *before]
    files = captioned(12, (64, 64))
    assert client.upload(dataset, *files[:8])["success_count"] == 4
    assert client.upload(dataset, *files[8:], ("notes.md", b"words"))["failure_count"] == 1
    early = train(client, dataset)
    assert (early.status_code, "12 images" in early.json()["detail"]) == (400, True)

    summary = client.upload(dataset, ("more.zip", dataset_zip(15, size=(64, 64))))
    assert reasons(summary) == {}
    assert client.files(dataset).keys() == {f"{index:02}.{kind}" for index in range(15) for kind in ("png", "txt")}
    assert f'"{dataset["folder"]}"' in options(api_server, "Ideogram4LoadDataset", "dataset")

    started = train(client, dataset).json()
    assert started["training_status"] in ("CREATING", "TRAINING")
    assert (started["dataset_id"], started["model_name"]) == (dataset["dataset_id"], "Discs and bars")
    endless = train(client, dataset, "v4", steps=40_000).json()
    model, statuses = wait(client, started["model_id"])
    assert model["status"] == "COMPLETED", model
    assert statuses == [one for one in ("CREATING", "TRAINING", "COMPLETED") if one in statuses]
    assert model["is_available_for_generation"]
    assert model["custom_model_uri"] == "model/discs-and-bars/version/1"
    assert model["loras"] == [
        "ideogram/Discs and bars_00001.safetensors",
        "ideogram/Discs and bars_00001_fal.safetensors",
    ]
    assert [Path(file["file_name"]).suffix for file in model["files"]].count(".safetensors") == 2
    for file in model["files"]:
        fetched = client.ask("GET", "/.." + file["url"].removeprefix(api_server.api))
        assert (len(fetched.content), fetched.headers["Content-Type"]) == (file["file_size"], file["content_type"])
    for name in model["loras"]:
        assert (api_server.output / "loras" / name).is_file()
        for loader in ("LoraLoaderModelOnly", "Ideogram4LoadLoRA"):
            assert f'"{name}"' in options(api_server, loader, "lora_name")
    runs = api_server.client.get("/ideogram4_lora_trainer/runs")["runs"]
    assert any(run["id"].startswith("Discs and bars ") for run in runs)

    second = client.get(f"/models/{endless['model_id']}").json()["model"]
    assert second["status"] in ("CREATING", "TRAINING")
    assert second["custom_model_uri"] == "model/discs-and-bars/version/2"
    cancelled = client.ask("PUT", f"/../fal/queue/ideogram/v4/requests/{second['request_id']}/cancel")
    assert cancelled.status_code == 202
    second, _ = wait(client, endless["model_id"])
    assert (second["status"], second["is_available_for_generation"]) == ("ERRORED", False)
    assert "cancelled" in second["error"]

    for path in (model["custom_model_uri"], model["name"], model["loras"][0], model["files"][0]["url"]):
        wishes = {"prompt": "a disc", "image_size": {"width": 64, "height": 64}, "rendering_speed": "TURBO"}
        wishes |= {"loras": [{"path": path}], "expansion_model": "None", "seed": 1, "output_format": "png"}
        made = client.post("/../fal/run/ideogram/v4/lora", wishes)
        assert made.status_code == 200, made.text
    gone = client.post("/../fal/run/ideogram/v4/lora", wishes | {"loras": [{"path": second["custom_model_uri"]}]})
    assert (gone.status_code, gone.json()["error_type"]) == (422, "lora_unreadable")

    assert [one for one in client.get("/models").json()["models"] if one in (model, second)] == [second, model]
    completed = client.get("/models?status=COMPLETED").json()["models"]
    assert model in completed
    assert second not in completed
