"""What fal's inputs become: graphs that are the examples' but for what was asked, sizes, answers."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydantic
import pytest
import torch
from datasets import picture
from fal_inputs import ID, data_uri, nodes, unrolled
from PIL import Image, JpegImagePlugin

import example_workflows

# ---- graphs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text_to_image", "image_to_image"])
def test_the_defaults_are_the_example(build: Callable[..., Any], name: str) -> None:
    """But for how the prompt gets there, and where the picture goes."""
    example = example_workflows.load_api(name)
    loras = [{"path": "ideogram4_00001"}] * len(nodes(example, "Ideogram4LoadLoRA"))
    more = {} if name == "text_to_image" else {"image_url": data_uri(picture(0, (1024, 1024)))}
    (text,) = nodes(example, "PrimitiveStringMultiline")
    job = build(prompt=text["value"], seed=0, loras=loras, **more)
    (expansion,) = nodes(job.graph, "Ideogram4ExpandPrompt")
    assert expansion == {"clip": ["2", 0], "prompt": text["value"], "expansion": "medium", "seed": 0} | {
        "width": 1024,
        "height": 1024,
    }
    for node in job.graph.values():
        if node["class_type"] == "Ideogram4ExpandPrompt":
            node.update(class_type="PrimitiveStringMultiline", inputs=text)
        node["inputs"].pop("url", None)
    if more:
        (kept,) = nodes(job.graph, "LoadImage")
        assert kept["image"].startswith("fal/")
        kept["image"] = "example.png"
    (save,) = job.values["save_nodes"]
    assert unrolled(job.graph, save, ("filename_prefix",)) == unrolled(example, "20", ("filename_prefix",))
    assert len(job.graph) == len(example)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_loras_add_up_in_their_order(build: Callable[..., Any], count: int) -> None:
    names = ["ideogram4_00001", "style", "https://dataset.test/x"][:count]
    graph = build(loras=[{"path": name, "scale": 0.5 * n} for n, name in enumerate(names)]).graph
    (override,) = nodes(graph, "CFGOverride")
    link, seen = override["model"], []
    while graph[link[0]]["class_type"] == "Ideogram4LoadLoRA":
        inputs = graph[link[0]]["inputs"]
        seen.insert(0, (inputs["url"] or inputs["lora_name"].removesuffix(".safetensors"), inputs["strength"]))
        link = inputs["model"]
    assert seen == [(name, 0.5 * n) for n, name in enumerate(names)]
    assert graph[link[0]] == {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "ideogram4_fp8_scaled.safetensors", "weight_dtype": "default"},
    }
    assert len(nodes(graph, "Ideogram4LoadLoRA")) == count


@pytest.mark.parametrize("image", [False, True])
def test_several_pictures_are_those_of_single_requests(build: Callable[..., Any], image: bool) -> None:
    values: dict[str, Any] = {"seed": 2**63 - 1, "expansion_model": "None", "loras": [{"path": "style"}]}
    if image:
        values |= {"image_url": data_uri(picture(0)), "strength": 0.3}
    several = build(**values, num_images=4)
    for class_type in ("UNETLoader", "CLIPLoader", "VAELoader", "CLIPTextEncode", "Ideogram4LoadLoRA", "VAEEncode"):
        assert len(nodes(several.graph, class_type)) == len(nodes(build(**values).graph, class_type))
    seeds, prefixes = [], []
    for save in several.values["save_nodes"]:
        chain = unrolled(several.graph, save)
        sampler = chain[1]["images"][0][1]["samples"][0]
        seeds.append(sampler[1]["noise"][0][1]["noise_seed"])
        prefixes.append(chain[1]["filename_prefix"])
        alone = build(**{**values, "seed": 5})
        nodes(alone.graph, "RandomNoise")[0]["noise_seed"] = seeds[-1]
        (own,) = alone.values["save_nodes"]
        without = ("filename_prefix",)
        assert unrolled(several.graph, save, without) == unrolled(alone.graph, own, without)
    assert seeds == [2**63 - 1 + n for n in range(4)] and max(seeds) < 2**64
    assert len(set(prefixes)) == 4 and all(ID in prefix and prefix.startswith("fal/") for prefix in prefixes)


def test_speeds_are_the_presets_of_previews(build: Callable[..., Any], fal: SimpleNamespace) -> None:
    from ideogram4_lora_trainer.trainer_core.model.sampling import PRESETS

    for speed, name in {"TURBO": "turbo", "BALANCED": "default", "QUALITY": "quality"}.items():
        (inputs,) = nodes(build(rendering_speed=speed).graph, "Ideogram4Scheduler")
        assert inputs == {"width": 1024, "height": 1024, **dataclasses.asdict(PRESETS[name])}


def test_at_full_strength_the_graph_is_that_of_text_to_image(build: Callable[..., Any]) -> None:
    values = {"seed": 1, "loras": [{"path": "style"}]}
    of_image = build(**values, image_url=data_uri(picture(0, (512, 256))), strength=1)
    of_text = build(**values, image_size={"width": 512, "height": 256})
    assert of_image.graph == of_text.graph
    assert any("image is ignored" in note for note in of_image.notes)


def test_seeds_are_drawn_where_none_is_given_and_told(build: Callable[..., Any]) -> None:
    drawn = [build() for _ in range(5)]
    assert len({job.values["seed"] for job in drawn}) == 5
    for job in drawn:
        assert nodes(job.graph, "RandomNoise")[0]["noise_seed"] == job.values["seed"]


def test_the_seed_does_not_have_the_same_prompt_encoded_again(build: Callable[..., Any]) -> None:
    encoded = {str(unrolled(build(seed=n, expansion_model="None").graph, "12")) for n in range(3)}
    assert len(encoded) == 1
    assert len({str(unrolled(build(seed=n).graph, "12")) for n in range(3)}) == 3, "another seed is another caption"


def test_what_cannot_be_had_is_said(build: Callable[..., Any]) -> None:
    assert build(enable_safety_checker=False).notes == [] == build().notes
    assert "has_nsfw_concepts is null" in build(enable_safety_checker=True).notes[0], "whoever asked for it is told"
    notes = build(acceleration="high", enable_safety_checker=False, negative_prompt="x").notes
    assert ["'negative_prompt'" in notes[0], "acceleration 'high' has no effect" in notes[1]] == [True, True]
    image = data_uri(picture(0))
    for speed, strength, left in (("TURBO", 0.04, 0), ("TURBO", 0.05, 1), ("QUALITY", 0.04, 2), ("TURBO", 0.0, 0)):
        job = build(image_url=image, rendering_speed=speed, strength=strength, enable_safety_checker=False)
        (inputs,) = nodes(job.graph, "SplitSigmasDenoise")
        steps = nodes(job.graph, "Ideogram4Scheduler")[0]["steps"]
        assert round(steps * inputs["denoise"]) == left and bool(job.notes) == (left == 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": ""},
        {"prompt": "x" * 20_001},
        {"prompt": "\ud800"},
        {"prompt": None},
        {"loras": [{"path": "style"}] * 4},
        {"loras": [{"path": "style", "scale": 4.01}]},
        {"loras": [{"path": "style", "scale": float("nan")}]},
        {"loras": [{"path": ""}]},
        {"loras": [{"path": "x" * 8193}]},
        {"loras": ["style"]},
        {"image_size": "auto"},
        {"image_size": {"width": 63, "height": 64}},
        {"image_size": {"width": 64, "height": 2049}},
        {"rendering_speed": "turbo"},
        {"expansion_model": "none"},
        {"num_images": 0},
        {"num_images": 5},
        {"seed": -1},
        {"seed": 2**63},
        {"output_format": "webp"},
        {"acceleration": "full"},
        {"models": {"vae": "x", "other": "y"}},
        {"strength": 1.01, "image_url": "https://x"},
        {"strength": -0.01, "image_url": "https://x"},
        {"image_url": ""},
        {"image_url": None},
    ],
)
def test_values_out_of_their_range_are_refused(build: Callable[..., Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError) as raised:
        build(**wrong)
    assert raised.value.errors()[0]["loc"][0] in wrong


# ---- sizes ---------------------------------------------------------------------------------------------------


def test_every_size_is_one_that_the_nodes_take_and_close_to_what_was_asked(fal: SimpleNamespace) -> None:
    sizes, draw = fal.sizes, random.Random(0)
    for side in [64, 65, 71, 72, 73, 2047, 2048, *(draw.randint(64, 2048) for _ in range(500))]:
        made, _ = sizes.size_of(sizes.ImageSize(width=side, height=64))
        assert made % 16 == 0 and 64 <= made <= 2048 and abs(made - side) <= 8
        assert sizes.size_of(sizes.ImageSize(width=made, height=made)) == (made, made)
    for name, (width, height) in sizes.NAMED.items():
        assert width % 16 == height % 16 == 0
        assert (width > height) == ("landscape" in name) and (width < height) == ("portrait" in name)


def test_the_size_of_an_image_is_its_own_or_smaller_in_its_shape(fal: SimpleNamespace) -> None:
    from ideogram4_lora_trainer.trainer_core.errors import ImageTooSmall

    draw, refused = random.Random(1), 0
    for _ in range(2000):
        width, height = (int(2 ** draw.uniform(0, 14)) for _ in range(2))
        scale = min(1.0, 2048 / max(width, height))
        if min(width, height) * scale < 64:
            refused += 1
            with pytest.raises(ImageTooSmall, match=f"{width}x{height}"):
                fal.sizes.size_like(width, height)
            continue
        for made, side in zip(fal.sizes.size_like(width, height), (width, height), strict=True):
            assert made % 16 == 0 and 64 <= made <= 2048 and abs(made - side * scale) <= 8
    assert 0 < refused < 2000


def test_the_schedule_of_any_size_is_the_one_of_its_pixels(fal: SimpleNamespace) -> None:
    from comfy_extras.nodes_ideogram4 import Ideogram4Scheduler, ideogram4_sigmas

    limits = {one.id: (one.min, one.max) for one in Ideogram4Scheduler.define_schema().inputs}
    for size in itertools.product((64, 80, 256, 1008, 2048), repeat=2):
        for preset in fal.images.SPEEDS.values():
            inputs = fal.sizes.schedule(preset, size)
            assert all(low <= inputs[name] <= high for name, (low, high) in limits.items())
            wanted = ideogram4_sigmas(preset.steps, *size, preset.mu, preset.std)
            torch.testing.assert_close(Ideogram4Scheduler.execute(**inputs)[0], wanted, rtol=1e-6, atol=1e-7)


# ---- answers -------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(fal: SimpleNamespace, build: Callable[..., Any], place: SimpleNamespace) -> Callable[..., Any]:
    """The record of a request whose pictures ComfyUI has made."""

    def run(count: int = 1, **values: Any) -> Any:
        job = build(num_images=count, seed=9, **values)
        folder = place.root / "output/fal"
        folder.mkdir(exist_ok=True)
        outputs: dict[str, Any] = {job.values["prompt_node"]: {"ideogram4_prompt": [{"text": "used", "note": "why"}]}}
        for index, node in enumerate(job.values["save_nodes"]):
            noise = np.random.default_rng(index).integers(0, 256, (64, 80, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / f"{index}.png")
            outputs[node] = {"images": [{"filename": f"{index}.png", "subfolder": "fal", "type": "output"}]}
        record = fal.store.Record(
            id=ID, endpoint="x", graph=job.graph, base="https://here", values=job.values, started=1.0, ended=3.5
        )
        made = fal.images.TEXT_TO_IMAGE.result(record, outputs)
        return dataclasses.replace(
            record, state="succeeded", files=tuple(made.files), payload=made.payload, notes=tuple(made.notes)
        )

    return run


@pytest.fixture
def answer(fal: SimpleNamespace, place: SimpleNamespace) -> Callable[[Any], dict[str, Any]]:
    def run(record: Any) -> dict[str, Any]:
        told = asyncio.run(fal.reports.answer(record))
        fal.images.ImagesOutput.model_validate(told)
        return told

    return run


def test_a_jpeg_keeps_every_colour_and_its_png(
    finished: Callable[..., Any], answer: Callable[..., Any], place: SimpleNamespace
) -> None:
    told = answer(finished(2))
    assert (told["seed"], told["prompt"], told["timings"]) == (9, "used", {"inference": 2.5})
    for index, image in enumerate(told["images"]):
        path = place.root / "output/fal" / f"{index}.jpeg"
        assert image["url"] == f"https://here/fal/files/{ID}/{index}/{index}.jpeg"
        assert (image["content_type"], image["file_size"]) == ("image/jpeg", path.stat().st_size)
        jpeg = Image.open(path)
        assert jpeg.format == "JPEG" and JpegImagePlugin.get_sampling(jpeg) == 0
        png = np.asarray(Image.open(path.with_suffix(".png"))).astype(int)
        assert np.abs(png - np.asarray(jpeg)).mean() < 5
    assert sorted(path.name for path in (place.root / "output/fal").iterdir()) == [
        "0.jpeg", "0.png", "1.jpeg", "1.png"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_data_is_read_when_it_is_asked_for(
    finished: Callable[..., Any], answer: Callable[..., Any], place: SimpleNamespace, kind: str
) -> None:
    record = finished(sync_mode=True, output_format=kind)
    assert "base64" not in str(record)
    path = place.root / "output/fal" / f"0.{kind}"
    assert answer(record)["images"][0]["url"] == data_uri(path.read_bytes(), f"image/{kind}")
    path.unlink()
    assert answer(record)["images"][0]["url"].startswith("https://here/fal/files/")


def test_pictures_that_are_gone_are_told(
    finished: Callable[..., Any], fal: SimpleNamespace, place: SimpleNamespace
) -> None:
    from ideogram4_lora_trainer.trainer_core.errors import UserError

    record = finished()
    (node,) = record.values["save_nodes"]
    for outputs in ({}, {node: {}}, {node: {"images": [{"filename": "x.png", "subfolder": "fal"}]}}):
        with pytest.raises(UserError) as raised:
            fal.images.TEXT_TO_IMAGE.result(record, outputs)
        assert raised.value.code == "result_lost"
