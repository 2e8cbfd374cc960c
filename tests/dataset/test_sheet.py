"""The contact sheet's contents, and which images are nearly the same picture."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from dataset_forge import encode, noise, png, zip_of
from ideogram4_lora_trainer.trainer_core.dataset import Dataset, open_dataset
from ideogram4_lora_trainer.trainer_core.dataset.json_caption import MAX_BOXES, MAX_LABEL, caption_boxes
from ideogram4_lora_trainer.trainer_core.dataset.sheet import Sheet, crop_at, make_sheet, marks
from ideogram4_lora_trainer.trainer_core.dataset.similar import SIGNATURE_BYTES, signature, twins
from PIL import Image, ImageEnhance


def sheet_of(files: dict[str, bytes | str], resolution: str = "64x64", default: str = "", force: bool = False) -> Sheet:
    dataset = open_dataset(zip_of(files), require_captions=False)
    return make_sheet(dataset, resolution=resolution, default_caption=default, force_default_caption=force)


def kinds(sheet: Sheet, index: int, twins: list[int | None] | None = None) -> list[str]:
    return [mark.kind for mark in marks(sheet, index, twins)]


def test_nothing_wrong() -> None:
    sheet = sheet_of({"a.png": png(64, 70), "a.txt": "x"})
    assert sheet.problem == "" and kinds(sheet, 0) == [] and sheet.resolution is not None
    box = crop_at(sheet.dataset.items[0], sheet.resolution)
    assert box is not None and (box.width, box.height) == (64, 64)


def test_every_fault_has_a_mark_and_refusals_are_told() -> None:
    sheet = sheet_of({"a.png": png(32, 70), "b.png": png(64, 64), "b.txt": '{"a": 1}', "c.png": png(64, 64)})
    assert [kinds(sheet, index, [None, 2, 1]) for index in range(3)] == [
        ["too_small", "no_caption"],
        ["json", "near_duplicate"],
        ["no_caption", "near_duplicate"],
    ]
    assert "2 of 3 images have no caption" in sheet.problem and "a.png (32x70)" in sheet.problem
    assert crop_at(sheet.dataset.items[0], sheet.resolution) is None


def opened(default: str, force: bool, files: dict[str, bytes | str]) -> Dataset:
    return open_dataset(zip_of(files), default_caption=default, force_default_caption=force)


@pytest.mark.parametrize(("default", "force"), [("x", False), ("x\n", True), ("y", True)])
def test_default_captions_are_given_out_as_the_node_does(default: str, force: bool) -> None:
    files: dict[str, bytes | str] = {"a.png": png(64, 64), "a.txt": "own", "b.png": png(64, 64), "b.txt": " "}
    sheet = sheet_of(files, default=default, force=force)
    dataset = opened(default, force, files)
    assert sheet.dataset.items == dataset.items
    assert sheet.dataset.default_caption == dataset.default_caption


def test_many_findings_are_cut() -> None:
    caption = json.dumps({"compositional_deconstruction": {"background": "b", "elements": [{} for _ in range(50)]}})
    (mark,) = marks(sheet_of({"a.png": png(64, 64), "a.txt": caption}), 0, None)
    assert "more" in mark.text and len(mark.text) < 400


@pytest.mark.parametrize("text", ["", "words", "{", '{"a": 1}', "{" * 10_000, '{"compositional_deconstruction": [1]}'])
def test_captions_without_boxes(text: str) -> None:
    assert caption_boxes(text) == []


def test_boxes_are_bounded() -> None:
    element = {"type": "odd", "bbox": [0, 0, 1000, 1], "desc": "d" * 1000}
    layout = {"elements": [element] * (MAX_BOXES + 5) + [{"bbox": [0, 0, 1, 1], "desc": 5}]}
    boxes = caption_boxes(json.dumps({"compositional_deconstruction": layout}))
    assert len(boxes) == MAX_BOXES and len(boxes[0].label) == MAX_LABEL and boxes[0].kind == "obj"


# ---- near-duplicates ------------------------------------------------------------------------------------------


def scene(seed: int) -> Image.Image:
    """Large soft shapes, as photographs have them."""
    return noise(8, 6, seed).resize((320, 240), Image.Resampling.BICUBIC)


def again(image: Image.Image, **options: int) -> Image.Image:
    return Image.open(io.BytesIO(encode(image, "JPEG", **options)))


def pairs(*images: Image.Image) -> list[int | None]:
    signatures = np.stack([signature(image) for image in images])
    return twins(signatures, np.ones(len(images), bool))


def test_the_same_picture_saved_again() -> None:
    image = scene(1)
    variants = [
        again(image, quality=40),
        image.resize((160, 120)),
        image.resize((1000, 700)),
        ImageEnhance.Brightness(image).enhance(1.03),
    ]
    for variant in variants:
        assert pairs(image, scene(2), variant) == [2, None, 0]


def test_different_pictures() -> None:
    assert pairs(*[scene(seed) for seed in range(60)]) == [None] * 60


def test_plain_surfaces_of_different_colours_are_different() -> None:
    colours = ["white", "black", "red", "navy", (128, 128, 128)]
    assert pairs(*[Image.new("RGB", (64, 64), colour) for colour in colours]) == [None] * len(colours)
    assert pairs(*[Image.new("RGB", (64, 64), "red")] * 3) == [1, 0, 0]


def test_an_image_that_could_not_be_read_is_like_no_other() -> None:
    signatures = np.zeros((3, SIGNATURE_BYTES), np.uint8)
    assert twins(signatures, np.array([True, False, False])) == [None] * 3
    assert twins(signatures, np.array([True, False, True])) == [2, None, 0]
    assert twins(signatures[:0], np.zeros(0, bool)) == []


@pytest.mark.parametrize("flat", [False, True])
def test_ten_thousand_images(flat: bool) -> None:
    high = 1 if flat else 256
    signatures = np.random.default_rng(0).integers(0, high, (10_000, SIGNATURE_BYTES), dtype=np.uint8)
    signatures[7_777] = signatures[3]
    found = twins(signatures, np.ones(10_000, bool))
    assert found[7_777] == (0 if flat else 3) and found[3] == (0 if flat else 7_777)
