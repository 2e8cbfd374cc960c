"""Pictures through fal's contract, on the real server over TLS: what the stock graph makes, told in fal's form."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import fal_clients
import numpy as np
import pytest
from api_calls import ApiClient
from datasets import picture
from foreign_loras import fused_lora
from PIL import Image
from safetensors.torch import save_file
from workflows import node

import example_workflows

TEXT, IMAGE = "ideogram/v4/lora", "ideogram/v4/image-to-image/lora"
PROMPT = "a red disc"
SEED = 7
SMALL: dict[str, Any] = {
    "prompt": PROMPT,
    "image_size": {"width": 64, "height": 64},
    "rendering_speed": "TURBO",
    "expansion_model": "None",
    "seed": SEED,
    "output_format": "png",
}


@pytest.fixture(scope="module")
def lora(api_server: SimpleNamespace) -> str:
    """A strong one in fal's keys, which ComfyUI's own loader would not read."""
    path = api_server.output / "loras" / "pictures" / "strong_00001.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = {f"layers.{layer}.attention.o": (256, 256) for layer in range(2)}
    save_file(fused_lora("fal", shapes, seed=3)[0], path)
    return "pictures/strong_00001.safetensors"


@pytest.fixture(scope="module")
def client(api_server: SimpleNamespace) -> ApiClient:
    return ApiClient(api_server)


@pytest.fixture(scope="module")
def make(client: ApiClient) -> Callable[..., dict[str, Any]]:
    def made(endpoint: str = TEXT, **values: Any) -> dict[str, Any]:
        request_id = client.submit(endpoint, **{**SMALL, **values})["request_id"]
        return {**client.result(request_id), "request_id": request_id}

    return made


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def data_uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


@pytest.fixture(scope="module")
def stock(api_server: SimpleNamespace, lora: str) -> Callable[..., np.ndarray]:
    """The example graph over ComfyUI's own route."""

    def run(name: str, *, seed: int, strength: float, denoise: float = 0.8, image: bytes = b"") -> np.ndarray:
        graph = example_workflows.load_api(name)
        for skipped in example_workflows.BYPASSED[name]:
            source = graph.pop(skipped)["inputs"]["model"]
            for one in graph.values():
                one["inputs"] = {k: source if v == [skipped, 0] else v for k, v in one["inputs"].items()}
        node(graph, "Ideogram4LoadLoRA").update(lora_name=lora, strength=strength)
        node(graph, "PrimitiveStringMultiline")["value"] = PROMPT
        node(graph, "RandomNoise")["noise_seed"] = seed
        # The schedule of 64x64, for which the node's smallest size is made up for.
        smaller = 0.5 * math.log(64 * 64 / (256 * 256))
        node(graph, "Ideogram4Scheduler").update(steps=12, width=256, height=256, mu=0.5 + smaller, std=1.75)
        for one in graph.values():
            if one["class_type"] in ("EmptyFlux2LatentImage", "ImageScale"):
                one["inputs"].update(width=64, height=64)
        if image:
            node(graph, "LoadImage")["image"] = api_server.client.upload("source.png", image)
            node(graph, "SplitSigmasDenoise")["denoise"] = denoise
        (saved,) = api_server.client.run(graph)[
            next(key for key, one in graph.items() if one["class_type"] == "SaveImage")
        ]["images"]
        return pixels((api_server.output / saved["subfolder"] / saved["filename"]).read_bytes())

    return run


# ---- text to image -------------------------------------------------------------------------------------------


def test_fals_client_gets_what_the_stock_graph_makes(
    api_server: SimpleNamespace, client: ApiClient, stock: Callable[..., np.ndarray], lora: str
) -> None:
    arguments = {**SMALL, "num_images": 2, "loras": [{"path": "strong_00001", "scale": 2.5}]}
    result = fal_clients.python(api_server, "run", application=TEXT, arguments=arguments)["result"]
    first, second = result["images"]
    assert result["seed"] == SEED and result["prompt"] == PROMPT
    assert result["has_nsfw_concepts"] is None and result["timings"]["inference"] > 0
    for number, told in enumerate((first, second)):
        data = client.file(told)
        assert told["file_size"] == len(data) and told["content_type"] == "image/png"
        assert (told["width"], told["height"]) == Image.open(io.BytesIO(data)).size == (64, 64)
        wanted = stock("text_to_image", seed=SEED + number, strength=2.5)
        assert np.array_equal(pixels(data), wanted)
    without = stock("text_to_image", seed=SEED, strength=0.0)
    assert not np.array_equal(pixels(client.file(first)), without), "the LoRA does nothing"


def test_the_same_again_is_made_anew_and_told_as_the_first_time(
    make: Callable[..., dict[str, Any]], client: ApiClient
) -> None:
    """ComfyUI remembers all but the last node, and expansion only tells its words when it runs."""
    results = [make(expansion_model="Medium", prompt='a sign: "{Open"') for _ in range(2)]
    first, second = (result["images"][0] for result in results)
    assert first["url"] != second["url"] and first["file_name"] != second["file_name"]
    assert np.array_equal(pixels(client.file(first)), pixels(client.file(second)))
    for result in results:
        assert result["prompt"] == 'a sign: "{Open"'  # the tiny text encoder only writes noise
        logs = "\n".join(line["message"] for line in client.status(result["request_id"])["logs"])
        assert "used as it is" in logs


def test_a_jpeg_is_one_and_lies_beside_its_png(
    make: Callable[..., dict[str, Any]], client: ApiClient, api_server: SimpleNamespace
) -> None:
    (told,) = make(output_format="jpeg")["images"]
    data = client.file(told)
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG" and told["content_type"] == "image/jpeg" and told["file_name"].endswith(".jpeg")
    jpeg = api_server.output / "fal" / told["file_name"]
    assert jpeg.read_bytes() == data
    beside = Image.open(jpeg.with_suffix(".png"))
    assert "Ideogram4ExpandPrompt" in beside.info["prompt"], "the graph is in it"
    assert "workflow" not in beside.info, "the page would open that, and it would be empty"
    assert np.abs(pixels(data).astype(int) - np.asarray(beside)).mean() < 4


def test_sync_mode_answers_with_the_bytes(
    make: Callable[..., dict[str, Any]], client: ApiClient, api_server: SimpleNamespace
) -> None:
    (told,) = make(sync_mode=True)["images"]
    header, _, content = told["url"].partition(",")
    assert header == "data:image/png;base64"
    data = base64.b64decode(content)
    path = api_server.output / "fal" / told["file_name"]
    assert path.read_bytes() == data and told["file_size"] == len(data)


# ---- image to image ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("denoise", [0.5, 0.0])
def test_an_image_becomes_what_the_stock_graph_makes_of_it(
    make: Callable[..., dict[str, Any]],
    client: ApiClient,
    stock: Callable[..., np.ndarray],
    lora: str,
    denoise: float,
) -> None:
    source = picture(1, (64, 64))
    made = make(IMAGE, image_url=data_uri(source), image_size="auto", strength=denoise, loras=[{"path": lora}])
    wanted = stock("image_to_image", seed=SEED, strength=1.0, denoise=denoise, image=source)
    assert np.array_equal(pixels(client.file(made["images"][0])), wanted)


def test_at_strength_0_nothing_but_the_image_counts_and_at_1_all_but_it(
    make: Callable[..., dict[str, Any]], client: ApiClient
) -> None:
    one, other = (data_uri(picture(index, (64, 64))) for index in (1, 5))

    def at(image: str, strength: float, **more: Any) -> np.ndarray:
        values = {"image_url": image, "strength": strength, "image_size": "auto", **more}
        return pixels(client.file(make(IMAGE, **values)["images"][0]))

    kept = at(one, 0.0)
    assert np.array_equal(kept, at(one, 0.0, seed=SEED + 1, prompt="something else"))
    assert not np.array_equal(kept, at(other, 0.0))
    ignored = at(one, 1.0)
    assert np.array_equal(ignored, at(other, 1.0))
    assert np.array_equal(ignored, pixels(client.file(make(TEXT)["images"][0])))


def test_a_picture_of_ours_can_be_gone_on_with(make: Callable[..., dict[str, Any]], client: ApiClient) -> None:
    first = make()["images"][0]
    of_address = make(IMAGE, image_url=first["url"], image_size="auto", strength=0.5)["images"][0]
    of_data = make(IMAGE, image_url=data_uri(client.file(first)), image_size="auto", strength=0.5)["images"][0]
    assert np.array_equal(pixels(client.file(of_address)), pixels(client.file(of_data)))


# ---- what goes wrong -----------------------------------------------------------------------------------------


def test_what_cannot_be_is_told_before_anything_is_queued(api_server: SimpleNamespace, lora: str) -> None:
    broken = api_server.output / "loras" / "pictures" / "broken.safetensors"
    broken.write_bytes(b"no LoRA")
    wrong: list[tuple[str, dict[str, Any], list[Any]]] = [
        (TEXT, {"loras": [{"path": lora}, {"path": "/etc/passwd"}]}, ["body", "loras", 1, "path"]),
        (TEXT, {"loras": [{"path": "https://127.0.0.1/x.safetensors"}]}, ["body", "loras", 0, "path"]),
        (TEXT, {"loras": [{"path": "broken"}]}, ["body", "loras"]),
        (IMAGE, {"image_url": "https://127.0.0.1/x.png"}, ["body", "image_url"]),
        (IMAGE, {"image_url": data_uri(b"no image")}, ["body", "image_url"]),
    ]
    by_endpoint = {endpoint: [{**SMALL, **v} for e, v, _ in wrong if e == endpoint] for endpoint in (TEXT, IMAGE)}
    with ThreadPoolExecutor() as pool:
        told = dict(
            zip(
                by_endpoint,
                pool.map(
                    lambda pair: fal_clients.python(api_server, "failures", application=pair[0], several=pair[1]),
                    by_endpoint.items(),
                ),
                strict=True,
            )
        )
    for endpoint, _, place in wrong:
        failure = told[endpoint].pop(0)
        assert failure["status"] == 422, failure
        assert repr(place)[1:-1] in str(failure["detail"]) or str(place) in str(failure["detail"]), failure
