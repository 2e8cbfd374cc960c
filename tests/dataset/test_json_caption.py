"""JSON captions: findings against the schema, and boxes that move exactly as the pixels do."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import numpy as np
import pytest
from dataset_forge import encode, noise, zip_of
from ideogram4_lora_trainer.trainer_core.dataset import (
    CropBox,
    Item,
    caption_for_crop,
    check_json_caption,
    crop_box,
    fit_image,
    open_dataset,
)
from ideogram4_lora_trainer.trainer_core.dataset.json_caption import MAX_FINDINGS, move_boxes
from ideogram4_lora_trainer.trainer_core.errors import ImageTooSmall
from PIL import Image, ImageDraw

CAPTION: dict[str, Any] = {
    "high_level_description": "Ein Café, 猫",
    "style_description": {
        "aesthetics": "calm",
        "lighting": "soft",
        "photo": "35 mm",
        "medium": "film",
        "color_palette": ["#A0B1C2", "#000000"],
    },
    "compositional_deconstruction": {
        "background": "a wall",
        "elements": [
            {"type": "obj", "bbox": [100, 200, 500, 800], "desc": "a cat", "color_palette": ["#FFFFFF"]},
            {"type": "text", "bbox": [0, 0, 100, 1000], "text": "OPEN", "desc": "a sign"},
            {"type": "obj", "desc": "rain"},
        ],
    },
}


def compact(caption: object) -> str:
    return json.dumps(caption, separators=(",", ":"), ensure_ascii=False)


DROP, LAST = object(), object()
STYLE, LAYOUT = "style_description", "compositional_deconstruction"
CAT, SIGN, RAIN = (f"{LAYOUT}/elements/{index}" for index in range(3))


def changed(path: str, value: object) -> str:
    """The caption with one thing set to `value`, dropped, or moved behind its siblings."""
    caption = copy.deepcopy(CAPTION)
    *parents, key = path.split("/")
    holder: Any = caption
    for parent in parents:
        holder = holder[int(parent) if parent.isdigit() else parent]
    if isinstance(holder, list):
        holder[int(key)] = value
    else:
        old = holder.pop(key, None) if value in (DROP, LAST) else None
        holder |= {} if value is DROP else {key: old if value is LAST else value}
    return compact(caption)


# ---- findings ------------------------------------------------------------------------------------------------


def test_a_caption_by_the_schema_has_no_findings() -> None:
    assert check_json_caption(compact(CAPTION)) == []
    assert check_json_caption(json.dumps(CAPTION, indent=2)) == []
    art = {"aesthetics": "calm", "lighting": "soft", "medium": "oil", "art_style": "cubism"}
    assert check_json_caption(changed(STYLE, art)) == []
    assert check_json_caption(changed(STYLE, DROP)) == []
    assert check_json_caption(changed("high_level_description", DROP)) == []


@pytest.mark.parametrize("text", ["", "a cat", "[1, 2]", '"{}"', "a {cat}", "null", "3"])
def test_text_is_not_json(text: str) -> None:
    assert check_json_caption(text) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "line 1, column 2"),
        ("{a cat}", "line 1"),
        ('{"a": 1,\n}', "line 2"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a": "\\ud800"}', "surrogate"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a":' * 100_000, "nested"),
        ('{"a":' + "9" * 10_000 + "}", "digits"),
        (compact(CAPTION) + " trailing", "Extra data"),
    ],
)
def test_broken_json_is_a_finding_and_stays_as_it_is(text: str, words: str) -> None:
    (finding,) = check_json_caption(text)
    assert words in finding
    assert move_boxes(text, 100, 100, CropBox(0, 0, 50, 50)).text == text


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (LAYOUT, DROP, "the caption lacks compositional_deconstruction"),
        ("mood", "x", "unknown keys: mood"),
        (STYLE, LAST, "the caption has its keys out of order"),
        ("high_level_description", 3, "high_level_description must be text"),
        ("aspect_ratio", "1:1", "older schema"),
        (STYLE, "photo", "must be an object"),
        (f"{STYLE}/art_style", "x", "exactly one of photo and art_style"),
        (f"{STYLE}/photo", DROP, "exactly one of photo and art_style"),
        (f"{STYLE}/lighting", DROP, "style_description lacks lighting"),
        (f"{STYLE}/lighting", 1, "style_description.lighting must be text"),
        (f"{STYLE}/aesthetics", LAST, "style_description has its keys out of order"),
        (f"{STYLE}/color_palette", ["#FFFFFF"] * 17, "17 colours, more than 16"),
        (f"{STYLE}/color_palette", ["#ffffff"], "in capitals"),
        (f"{STYLE}/color_palette", "red", "in capitals"),
        (LAYOUT, [], "must be an object"),
        (f"{LAYOUT}/background", DROP, "lacks background"),
        (f"{LAYOUT}/background", None, "background must be text"),
        (f"{LAYOUT}/background", LAST, "out of order: use background, elements"),
        (f"{LAYOUT}/elements", {}, "must be a list"),
        (f"{CAT}/type", "object", 'element 1 must be an object of type "obj" or "text"'),
        (f"{CAT}/type", ["obj"], "element 1 must be"),
        (CAT, "cat", "element 1 must be"),
        (f"{CAT}/desc", DROP, "element 1 lacks desc"),
        (f"{SIGN}/text", DROP, "element 2 lacks text"),
        (f"{SIGN}/text", 42, "element 2: text must be text"),
        (f"{RAIN}/text", "x", "element 3 has unknown keys: text"),
        (f"{CAT}/bbox", LAST, "element 1 has its keys out of order"),
        (f"{CAT}/color_palette", ["#FFFFFF"] * 6, "6 colours, more than 5"),
        (f"{CAT}/bbox", [100, 200, 500], "bbox must be"),
        (f"{CAT}/bbox", [100, 200, 500, 1001], "bbox must be"),
        (f"{CAT}/bbox", [-1, 200, 500, 1000], "bbox must be"),
        (f"{CAT}/bbox", [500, 200, 100, 800], "bbox must be"),
        (f"{CAT}/bbox", [100, 200, 100, 800], "bbox must be"),
        (f"{CAT}/bbox", [0.1, 0.2, 0.5, 0.8], "bbox must be"),
        (f"{CAT}/bbox", [0, 0, True, 1000], "bbox must be"),
    ],
)
def test_each_deviation_is_found(path: str, value: object, words: str) -> None:
    findings = check_json_caption(changed(path, value))
    assert len(findings) == 1 and words in findings[0]


@pytest.mark.parametrize(("path", "most"), [(f"{STYLE}/color_palette", 16), (f"{CAT}/color_palette", 5)])
def test_palettes_up_to_the_limit_are_fine(path: str, most: int) -> None:
    assert check_json_caption(changed(path, ["#FFFFFF"] * most)) == []


def test_findings_are_limited() -> None:
    findings = check_json_caption(changed(f"{LAYOUT}/elements", ["x"] * 500))
    assert len(findings) == MAX_FINDINGS + 1 and findings[-1] == f"and {500 - MAX_FINDINGS} more"


# ---- boxes ---------------------------------------------------------------------------------------------------


def boxes(text: str) -> list[list[int]]:
    return [e["bbox"] for e in json.loads(text)["compositional_deconstruction"]["elements"] if "bbox" in e]


def one_box(box: object) -> str:
    element = {"type": "obj", "bbox": box, "desc": "x"}
    return compact({"compositional_deconstruction": {"background": "b", "elements": [element]}})


def drawn(source: tuple[int, int], box: list[int]) -> Image.Image:
    """Black, with the box filled in white."""
    top, left, bottom, right = (edge / 1000 * source[1 - index % 2] for index, edge in enumerate(box))
    image = Image.new("L", source)
    ImageDraw.Draw(image).rectangle((round(left), round(top), round(right) - 1, round(bottom) - 1), fill=255)
    return image.convert("RGB")


def test_boxes_move_with_the_pixels() -> None:
    """200 boxes drawn into images, fitted, and measured there: the caption's new box is where the white is."""
    rng = random.Random(2)
    measured = 0
    for _ in range(200):
        width, height = rng.randrange(64, 400, 16), rng.randrange(64, 400, 16)
        source = (width + rng.randrange(300), height + rng.randrange(300))
        ys, xs = sorted(rng.sample(range(1001), 2)), sorted(rng.sample(range(1001), 2))
        box = [ys[0], xs[0], ys[1], xs[1]]
        item = Item("a.png", one_box(box), "file", *source)
        white = np.array(fit_image(drawn(source, box), width, height))[..., 0] > 127
        moved = boxes(caption_for_crop(item, width, height))
        if white.sum() == 0:
            continue
        (top, left, bottom, right), (y, x) = moved[0], np.nonzero(white)
        # A pixel and a half each way: drawing rounds to whole pixels, and so does measuring.
        assert [top * height / 1000, bottom * height / 1000] == pytest.approx([y.min(), y.max() + 1], abs=1.5)
        assert [left * width / 1000, right * width / 1000] == pytest.approx([x.min(), x.max() + 1], abs=1.5)
        measured += 1
    assert measured > 100


def test_elements_outside_the_crop_are_removed_and_only_they() -> None:
    item = Item("a.png", compact(CAPTION), "file", 1000, 2000)  # the top and bottom quarter are cut off
    caption = json.loads(caption_for_crop(item, 512, 512))
    kept = caption["compositional_deconstruction"]["elements"]
    assert [element["desc"] for element in kept] == ["a cat", "rain"]
    assert kept[0]["bbox"] == [0, 200, 500, 800]
    result = move_boxes(item.caption, 1000, 2000, crop_box(1000, 2000, 512, 512))
    assert (result.moved, result.dropped) == (1, 1)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0, 0, 1000, 1000], [0, 0, 1000, 1000]),
        ([250, 0, 750, 1000], [0, 0, 1000, 1000]),
        ([500, 0, 1000, 1000], [500, 0, 1000, 1000]),
        ([0, 0, 251, 1000], [0, 0, 2, 1000]),
        ([0, 0, 250, 1000], None),
        ([750, 0, 1000, 1000], None),
    ],
)
def test_clipping_at_the_edge_of_the_crop(box: list[int], expected: list[int] | None) -> None:
    item = Item("a.png", one_box(box), "file", 1000, 2000)
    assert boxes(caption_for_crop(item, 512, 512)) == ([expected] if expected else [])


def test_a_changed_caption_is_written_canonically_and_keeps_its_keys_in_order() -> None:
    item = Item("a.png", json.dumps(CAPTION, indent=4), "file", 1000, 500)
    text = caption_for_crop(item, 496, 496)
    assert text == compact(json.loads(text)) and "Café, 猫" in text
    expected = copy.deepcopy(CAPTION)
    # The crop keeps the middle half: x runs from 250 to 750.
    expected["compositional_deconstruction"]["elements"][0]["bbox"] = [100, 0, 500, 1000]
    assert list(json.loads(text)) == list(expected) and json.loads(text) == expected


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("  a plain caption {with braces} \n x", (900, 300)),
        (json.dumps(CAPTION, indent=4), (1024, 1024)),
        (json.dumps(CAPTION, indent=4), (512, 512)),
        (one_box([0, 0, 1000, 1000]) + "  ", (900, 300)),
        ('{"compositional_deconstruction": "?"}', (900, 300)),
        ('{"compositional_deconstruction": {"elements": 3}}', (900, 300)),
        (" " + one_box([0.1, 0.2, 0.5, 0.8]), (900, 300)),
        (one_box([500, 0, 100, 100]), (900, 300)),
        (one_box("box"), (900, 300)),
    ],
)
def test_what_does_not_change_stays_byte_for_byte(text: str, size: tuple[int, int]) -> None:
    side = min(size) // 16 * 16
    side = 512 if size[0] == size[1] else side
    assert caption_for_crop(Item("a.png", text, "file", *size), side, side) == text


def test_as_is_leaves_boxes_alone() -> None:
    item = Item("a.png", compact(CAPTION), "file", 1000, 500)
    assert caption_for_crop(item, 496, 496, move_boxes=False) == item.caption
    assert caption_for_crop(item, 496, 496) != item.caption


def test_the_old_aspect_ratio_is_removed_because_the_crop_made_it_false() -> None:
    old = {"aspect_ratio": "2:1", **{key: CAPTION[key] for key in ("compositional_deconstruction",)}}
    for size in ((1000, 500), (512, 512)):
        item = Item("a.png", json.dumps(old), "file", *size)
        text = caption_for_crop(item, 496, 496)
        assert "aspect_ratio" not in text and text == compact(json.loads(text))
        assert caption_for_crop(item, 496, 496, move_boxes=False) == item.caption


def test_boxes_count_from_the_picture_as_seen() -> None:
    """An image stored on its side: the caption was written for what people see."""
    side = Image.Exif()
    side[0x0112] = 6
    data = encode(noise(100, 200), "JPEG", exif=side.tobytes())
    item = open_dataset(zip_of({"a.jpg": data, "a.txt": one_box([0, 250, 1000, 750])})).items[0]
    assert (item.width, item.height) == (200, 100)
    assert boxes(caption_for_crop(item, 96, 96)) == [[0, 0, 1000, 1000]]


def test_a_crop_that_would_enlarge_is_refused() -> None:
    with pytest.raises(ImageTooSmall):
        caption_for_crop(Item("a.png", "x", "file", 100, 100), 112, 96)
