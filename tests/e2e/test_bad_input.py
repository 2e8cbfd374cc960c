"""What a person reads when the input is wrong: over HTTP, one sentence with the file or value and the remedy."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import workflows
from datasets import dataset_zip
from safetensors.torch import save
from workflows import node


@pytest.fixture
def message(comfy_server: SimpleNamespace) -> Callable[[workflows.Graph], str]:
    """Run a graph that must fail; returns the message that the user sees."""

    def run(graph: workflows.Graph) -> str:
        record = comfy_server.client.wait(comfy_server.client.queue(graph))
        assert record["status"]["status_str"] == "error", "the graph ran"
        (detail,) = (d for kind, d in record["status"]["messages"] if kind == "execution_error")
        assert detail["exception_type"].rsplit(".", 1)[-1] != "Exception"
        return detail["exception_message"].strip()

    return run


def upload(server: SimpleNamespace, name: str, content: bytes) -> str:
    return server.client.upload(name, content)


def zip_of(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


DATASETS = {
    "no_images": (zip_of(**{"notes.pdf": b"x"}), ["no_images.zip holds no", "Add at least one", "notes.pdf"]),
    "no_captions": (dataset_zip(captions=False), ["3 of 3 images without a caption", "set/00.png", "default_caption"]),
    "too_small": (dataset_zip(size=(48, 40)), ["set/00.png", "48x40", "64x64"]),
    "unreadable": (dataset_zip()[:-40], ["unreadable.zip"]),
    "not_a_zip": (b"hello", ["not_a_zip.zip"]),
}


@pytest.mark.parametrize("name", DATASETS)
def test_datasets(comfy_server: SimpleNamespace, message: Callable[..., str], name: str) -> None:
    content, expected = DATASETS[name]
    graph = workflows.load("train_from_zip", dataset=upload(comfy_server, f"{name}.zip", content))
    text = message(graph)
    assert all(part in text for part in expected), text


@pytest.mark.parametrize(("custom", "expected"), [("100x100", "multiple"), ("4096x64", "2048"), ("large", "1280x768")])
def test_resolutions(comfy_server: SimpleNamespace, message: Callable[..., str], custom: str, expected: str) -> None:
    graph = workflows.load("train_from_zip", dataset=upload(comfy_server, "fine.zip", dataset_zip()))
    node(graph, "Ideogram4ResolveResolution")["custom"] = custom
    text = message(graph)
    assert custom in text and expected in text, text


def test_a_vae_of_another_model(comfy_server: SimpleNamespace, message: Callable[..., str]) -> None:
    graph = workflows.load("train_from_zip", dataset=upload(comfy_server, "fine.zip", dataset_zip()))
    node(graph, "VAELoader")["vae_name"] = "pixel_space"
    assert "not the FLUX.2 VAE" in message(graph)


def test_a_text_encoder_of_another_type(comfy_server: SimpleNamespace, message: Callable[..., str]) -> None:
    graph = workflows.load("train_from_zip", dataset=upload(comfy_server, "fine.zip", dataset_zip()))
    node(graph, "CLIPLoader")["type"] = "stable_diffusion"
    text = message(graph)
    assert "text encoder" in text and "ideogram4" in text, text


def test_the_unconditional_model(comfy_server: SimpleNamespace, message: Callable[..., str]) -> None:
    graph = workflows.load("train_from_zip", dataset=upload(comfy_server, "fine.zip", dataset_zip()))
    node(graph, "UNETLoader")["unet_name"] = "ideogram4_tiny_unconditional_bf16.safetensors"
    assert "ideogram4_tiny_unconditional_bf16.safetensors is the unconditional network" in message(graph)


def flux_lora() -> bytes:
    key = "transformer.single_transformer_blocks.0.attn.to_q"
    return save({f"{key}.lora_A.weight": torch.zeros(4, 3072), f"{key}.lora_B.weight": torch.zeros(3072, 4)})


def half_lora(width: int = 256) -> bytes:
    key = "diffusion_model.layers.0.attention.o"
    return save({f"{key}.lora_A.weight": torch.zeros(4, width + 1), f"{key}.lora_B.weight": torch.zeros(width + 1, 4)})


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("flux", flux_lora(), ["flux.safetensors"]),
        ("wide", half_lora(), ["layers.0.attention.o"]),
        ("broken", b"PK\x03\x04 not a lora", ["broken.safetensors"]),
    ],
)
def test_loras_of_another_model(
    comfy_server: SimpleNamespace, message: Callable[..., str], name: str, content: bytes, expected: list[str]
) -> None:
    folder = comfy_server.output / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.safetensors").write_bytes(content)
    graph = workflows.load("text_to_image")
    node(graph, "Ideogram4LoadLoRA")["lora_name"] = f"{name}.safetensors"
    text = message(graph)
    assert all(part in text for part in expected), text


@pytest.mark.parametrize("name", ["../outside.zip", "/etc/passwd", "C:\\x.zip", "gone.zip", "none", "a\0b"])
def test_dataset_names_are_checked_before_anything_runs(comfy_server: SimpleNamespace, name: str) -> None:
    with pytest.raises(Exception, match=r"HTTP 400.*Ideogram4LoadDataset|HTTP 400.*dataset"):
        comfy_server.client.queue(workflows.load("train_from_zip", dataset=name))


def test_a_data_uri_and_a_folder_work_like_the_zip(comfy_server: SimpleNamespace) -> None:
    import base64

    uri = "data:application/zip;base64," + base64.b64encode(dataset_zip()).decode()
    from_uri = workflows.load("train_from_zip", steps=2, dataset="gone.zip")
    node(from_uri, "Ideogram4LoadDataset")["url"] = uri
    comfy_server.client.run(from_uri)
    with zipfile.ZipFile(io.BytesIO(dataset_zip())) as archive:
        for name in archive.namelist():
            comfy_server.client.upload(name.split("/")[1], archive.read(name), subfolder="as folder")
    comfy_server.client.run(workflows.load("train_from_zip", steps=2, dataset="as folder"))


def test_a_prefix_that_leaves_the_output_folder(comfy_server: SimpleNamespace, message: Callable[..., str]) -> None:
    graph = workflows.load("train_from_zip", steps=2, dataset=upload(comfy_server, "fine.zip", dataset_zip()))
    node(graph, "Ideogram4SaveLoRA")["filename_prefix"] = "../escaped"
    assert "outside of output" in message(graph)


def test_what_was_trained_is_saved_at_once_when_the_prefix_is_put_right(
    comfy_server: SimpleNamespace, message: Callable[..., str]
) -> None:
    graph = workflows.load("train_from_zip", steps=2, dataset=upload(comfy_server, "fine.zip", dataset_zip()))
    node(graph, "Ideogram4SaveLoRA")["filename_prefix"] = "loras/what?"
    assert "contains '?'" in message(graph)
    node(graph, "Ideogram4SaveLoRA")["filename_prefix"] = "loras/what"
    record = comfy_server.client.wait(comfy_server.client.queue(graph))
    (cached,) = (detail["nodes"] for kind, detail in record["status"]["messages"] if kind == "execution_cached")
    assert workflows.node_id(graph, "Ideogram4TrainLoRA") in cached
    assert (comfy_server.output / "loras" / "what_00001.safetensors").is_file()


def test_an_http_url_is_refused(comfy_server: SimpleNamespace, message: Callable[..., str]) -> None:
    graph = workflows.load("train_from_zip")
    node(graph, "Ideogram4LoadDataset")["url"] = "http://127.0.0.1/dataset.zip"
    assert "https" in message(graph)
