"""Scripts written for fal's trainer, unchanged but for the host, on the real server over TLS."""

from __future__ import annotations

import io
import itertools
import json
import urllib.request
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fal_clients
import pytest
from api_calls import data_uri
from datasets import dataset_zip, picture
from safetensors import safe_open

STEPS = 100
"""The fewest that the contract allows."""


def inputs(content: bytes = b"", **more: Any) -> dict[str, Any]:
    return {"images_data_url": data_uri(content or dataset_zip()), "steps": STEPS, "resolution": "64x64", **more}


@pytest.fixture(scope="module")
def trained(api_server: SimpleNamespace) -> dict[str, Any]:
    return fal_clients.python(api_server, "subscribe", arguments=inputs())


def file_at(server: SimpleNamespace, url: str) -> bytes:
    path = url.removeprefix(server.api)
    request = urllib.request.Request(server.client.url + path, headers={"Authorization": f"Bearer {server.key}"})
    return server.client._opener.open(request).read()


# ---- the Python client ---------------------------------------------------------------------------------------


def test_both_files_come_as_they_are_described(api_server: SimpleNamespace, trained: dict[str, Any]) -> None:
    for name, content_type in (
        ("diffusers_lora_file", "application/octet-stream"),
        ("config_file", "application/json"),
    ):
        told, fetched = trained["result"][name], trained["files"][name]
        assert told["url"].startswith(f"{api_server.api}/fal/files/")
        assert told["file_size"] == fetched["bytes"] > 0
        assert told["content_type"] == fetched["content_type"] == content_type
        assert fetched["without_key"] == 401
    config = json.loads(file_at(api_server, trained["result"]["config_file"]["url"]))
    assert config["steps"] == STEPS
    lora_file = trained["result"]["diffusers_lora_file"]
    assert (api_server.output / "loras" / "fal" / lora_file["file_name"]).read_bytes() == file_at(
        api_server, lora_file["url"]
    )


def test_logs_grow_and_name_every_stage(trained: dict[str, Any]) -> None:
    logs = trained["logs"]
    for earlier, later in itertools.pairwise(logs):
        assert later[: len(earlier)] == earlier
    text = "\n".join(logs[-1])
    assert "Queued in ComfyUI." in text
    assert f"Training for {STEPS} steps." in text
    assert text.index("Encoding images and captions.") < text.index("Training for")
    assert f"of {STEPS}, loss" in text


def test_the_lora_loads_in_diffusers(
    api_server: SimpleNamespace,
    trained: dict[str, Any],
    tiny_models: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import diffusers_ideogram4 as oracle

    file = tmp_path / "lora.safetensors"
    file.write_bytes(file_at(api_server, trained["result"]["diffusers_lora_file"]["url"]))
    with safe_open(tiny_models / "diffusion_models" / "ideogram4_tiny_fp32.safetensors", framework="pt") as base:
        transformer = oracle.tiny_transformer({key: base.get_tensor(key) for key in base.keys()})  # noqa: SIM118
    deltas = oracle.lora_deltas(oracle.load_lora(transformer, file))
    assert not caplog.records, "diffusers complained"
    assert deltas
    assert all(delta.abs().max() > 0 for delta in deltas.values())


def test_async_with_the_zip_at_an_address(api_server: SimpleNamespace) -> None:
    # Any https server will do: this one serves what is in its input folder.
    (api_server.input / "at_an_address.zip").write_bytes(dataset_zip())
    address = f"{api_server.api}/view?filename=at_an_address.zip&type=input"
    told = fal_clients.python(api_server, "subscribe_async", arguments=inputs() | {"images_data_url": address})
    assert told["seen"][-1] == "Completed"
    assert "InProgress" in told["seen"]
    assert told["result"]["diffusers_lora_file"]["file_size"] > 0


def test_the_four_failures_can_be_told_apart(api_server: SimpleNamespace) -> None:
    empty = io.BytesIO()
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("readme.md", "no images")
    without_captions = dataset_zip(captions=False)
    (api_server.input / "without_captions.zip").write_bytes(without_captions)
    address = f"{api_server.api}/view?filename=without_captions.zip&type=input"
    told = fal_clients.python(
        api_server,
        "failures",
        several=[
            inputs(without_captions),
            inputs(resolution="512x512"),
            inputs(resolution="100x100"),
            inputs(empty.getvalue()),
            inputs() | {"images_data_url": address},
            inputs(steps=99),
        ],
    )
    assert [failure["status"] for failure in told] == [422] * 6
    found = [(failure["detail"][0]["loc"], failure["detail"][0]["type"]) for failure in told]
    assert found == [
        (["body", "images_data_url"], "missing_captions"),
        (["body", "images_data_url"], "image_too_small"),
        (["body", "resolution"], "resolution_rejected"),
        (["body", "images_data_url"], "no_images_found"),
        (["body", "images_data_url"], "missing_captions"),
        (["body", "steps"], "greater_than_equal"),
    ]
    assert "00.png" in told[0]["detail"][0]["msg"]
    assert str(api_server.base) not in json.dumps(told)


def test_a_run_is_cancelled(api_server: SimpleNamespace) -> None:
    told = fal_clients.python(api_server, "cancel", arguments=inputs(steps=20_000))
    assert told == {"error": "The request was cancelled.", "type": "client_cancelled", "status": 499}


def test_the_blocking_form_gives_the_same(api_server: SimpleNamespace, trained: dict[str, Any]) -> None:
    """The same data and settings make the same LoRA, whichever way they come."""
    told = fal_clients.python(api_server, "run", arguments=inputs(output_lora_format="fal"))
    first, second = (
        file_at(api_server, result["diffusers_lora_file"]["url"]) for result in (trained["result"], told["result"])
    )
    assert tensors_of(first) == tensors_of(second)


def tensors_of(content: bytes) -> bytes:
    """What follows the header, in which the title and the date differ."""
    return content[8 + int.from_bytes(content[:8], "little") :]


# ---- the JavaScript client -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["proxy", "middleware"])
def test_the_javascript_client(api_server: SimpleNamespace, way: str) -> None:
    told = fal_clients.javascript(api_server, way=way, input=inputs(output_lora_format="comfy"))
    result, updates = told["result"], told["updates"]
    assert result["data"]["diffusers_lora_file"]["url"].startswith(api_server.api)
    assert result["requestId"] == updates[0]["request_id"]
    assert updates[-1]["status"] == "COMPLETED"


def test_the_javascript_client_tells_failures_apart(api_server: SimpleNamespace) -> None:
    told = fal_clients.javascript(api_server, way="proxy", input=inputs(dataset_zip(captions=False)))["failure"]
    assert (told["name"], told["status"]) == ("ValidationError", 422) or told["status"] == 422
    assert told["body"]["detail"][0]["type"] == "missing_captions"


def test_what_a_user_of_the_page_sees(api_server: SimpleNamespace, trained: dict[str, Any]) -> None:
    """An ordinary dataset, an ordinary run and an ordinary LoRA; and the key nowhere."""
    assert trained
    nodes = api_server.client.get("/object_info")
    datasets = json.dumps(nodes["Ideogram4LoadDataset"]["input"]["required"]["dataset"])
    loras = json.dumps(nodes["Ideogram4LoadLoRA"]["input"]["required"]["lora_name"])
    assert "fal/" in datasets
    assert "fal/trainer_" in loras
    assert api_server.key not in api_server.log.read_text(encoding="utf-8")
    assert api_server.key not in json.dumps(api_server.client.get("/history"))
    for file in (*api_server.base.rglob("*.json"), *api_server.base.rglob("*.safetensors")):
        if file.is_file() and file.name != "settings.json":
            assert api_server.key.encode() not in file.read_bytes()


def test_one_picture_more(api_server: SimpleNamespace) -> None:
    """A zip with a picture that is broken where only decoding shows it fails in its turn, by name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", picture(0))
        archive.writestr("a.txt", "a disc")
        archive.writestr("b.png", picture(1)[:200])
        archive.writestr("b.txt", "a disc")
    (told,) = fal_clients.python(api_server, "failures", several=[inputs(buffer.getvalue())])
    assert told["detail"][0]["type"] == "image_unreadable"
    assert "b.png" in told["detail"][0]["msg"]
