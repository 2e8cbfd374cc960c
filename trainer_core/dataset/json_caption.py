"""JSON captions, the kind that Ideogram 4 was trained on: what is off in one, and its boxes moved with the crop.

The schema is that of Ideogram's own caption checker, which warns and never refuses; so does this file.
Covered: text that is not JSON, broken JSON, nesting without end, duplicate keys, numbers and escapes that JSON text
cannot hold. Not covered: whether the caption is true, and boxes written as x, y instead of y, x, which look the same.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

from .crop import CropBox

BOX_UNITS = 1000
"""Boxes count thousandths of the image: [y_min, x_min, y_max, x_max], origin at the top left."""
MAX_IMAGE_COLOURS, MAX_ELEMENT_COLOURS = 16, 5
MAX_FINDINGS = 20
"""Of one caption."""
MAX_BOXES, MAX_LABEL = 200, 80
"""Of one caption; characters. To be looked at."""

_ROOT_KEYS = ("high_level_description", "style_description", "compositional_deconstruction")
_PHOTO_KEYS = ("aesthetics", "lighting", "photo", "medium", "color_palette")
_ART_KEYS = ("aesthetics", "lighting", "medium", "art_style", "color_palette")
_LAYOUT_KEYS = ("background", "elements")
_ELEMENT_KEYS = {
    "obj": ("type", "bbox", "desc", "color_palette"),
    "text": ("type", "bbox", "text", "desc", "color_palette"),
}
_OPTIONAL = ("high_level_description", "style_description", "color_palette", "bbox")
_OLD_KEY = "aspect_ratio"  # captions of the schema before this one carry it
_COLOUR = re.compile(r"#[0-9A-F]{6}")


@dataclasses.dataclass(frozen=True)
class MovedCaption:
    """A caption after a crop."""

    text: str
    moved: int = 0
    """Elements whose box has changed."""
    dropped: int = 0
    """Elements that lay wholly outside the crop."""


@dataclasses.dataclass(frozen=True)
class CaptionBox:
    """A box of a JSON caption, to be drawn."""

    label: str
    """What is in it: the text to be written, or the beginning of its description."""
    kind: str
    """obj or text"""
    left: float
    """All in parts of the whole image, from 0 to 1."""
    top: float
    width: float
    height: float


class _Unparsable(ValueError):
    """Text that begins as a JSON object and is none."""


def check_json_caption(text: str) -> list[str] | None:
    """What is off in a JSON caption, [] where nothing is; None where the text is no JSON object at all."""
    try:
        caption = _parse(text)
    except _Unparsable as error:
        return [f"begins like JSON but is not: {error}"]
    if caption is None:
        return None
    findings = list(_check_root(caption))
    if len(findings) > MAX_FINDINGS:
        findings[MAX_FINDINGS:] = [f"and {len(findings) - MAX_FINDINGS} more"]
    return findings


def caption_boxes(text: str) -> list[CaptionBox]:
    """The boxes of a JSON caption in its order, at most `MAX_BOXES`; [] where it has none or is no JSON caption."""
    try:
        caption = _parse(text)
    except _Unparsable:
        caption = None
    boxes: list[CaptionBox] = []
    for element in _elements(caption or {}):
        if not _has_box(element) or len(boxes) == MAX_BOXES:
            continue
        top, left, bottom, right = (edge / BOX_UNITS for edge in element["bbox"])
        kind = "text" if element.get("type") == "text" else "obj"
        words = element.get("text") if kind == "text" else element.get("desc")
        label = words[:MAX_LABEL] if isinstance(words, str) else ""
        boxes.append(CaptionBox(label, kind, left, top, right - left, bottom - top))
    return boxes


def move_boxes(text: str, source_width: int, source_height: int, crop: CropBox) -> MovedCaption:
    """The caption of the part `crop` of an image of `source_width` x `source_height` pixels.

    Boxes are moved and clipped. An element that is wholly outside is removed, because it is no longer in the picture.
    A box that is no box (see `check_json_caption`) stays as it is. `aspect_ratio`, which older captions carry, is
    removed. If nothing changes the very same text is returned, else the caption in canonical form: no spaces, key
    order kept. Text that is not JSON is returned as it is.
    """
    try:
        caption = _parse(text)
    except _Unparsable:
        caption = None
    if caption is None:
        return MovedCaption(text)
    old_key_removed = caption.pop(_OLD_KEY, None) is not None
    moved = dropped = 0
    elements = _elements(caption)
    for index in reversed(range(len(elements))):
        if not _has_box(elements[index]):
            continue
        box = _move(elements[index]["bbox"], source_width, source_height, crop)
        if box is None:
            del elements[index]
            dropped += 1
        elif box != elements[index]["bbox"]:
            elements[index]["bbox"] = box
            moved += 1
    if not (old_key_removed or moved or dropped):
        return MovedCaption(text)
    return MovedCaption(json.dumps(caption, separators=(",", ":"), ensure_ascii=False), moved, dropped)


def _parse(text: str) -> dict[str, Any] | None:
    """The JSON object, or None where the text does not begin like one."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        caption = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        json.dumps(caption, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _Unparsable("it holds half of a surrogate pair") from None
    except RecursionError:
        raise _Unparsable("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise _Unparsable(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError as error:  # a number of thousands of digits, and what the two hooks refuse
        raise _Unparsable(str(error).partition(";")[0]) from None
    return caption


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("it holds a key twice")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")


# ---- boxes ---------------------------------------------------------------------------------------------------


def _elements(caption: dict[str, Any]) -> list[Any]:
    layout = caption.get("compositional_deconstruction")
    elements = layout.get("elements") if isinstance(layout, dict) else None
    return elements if isinstance(elements, list) else []


def _has_box(element: object) -> bool:
    return isinstance(element, dict) and _is_box(element.get("bbox"))


def _is_box(box: object) -> bool:
    """Four integers in range that enclose something."""
    if not isinstance(box, list) or len(box) != 4 or any(type(edge) is not int for edge in box):
        return False
    top, left, bottom, right = box
    return 0 <= top < bottom <= BOX_UNITS and 0 <= left < right <= BOX_UNITS


def _move(box: list[int], source_width: int, source_height: int, crop: CropBox) -> list[int] | None:
    """The box in thousandths of the crop, or None where less than half a thousandth of it is left."""
    top, left, bottom, right = box
    top, bottom = (_move_edge(edge, source_height, crop.top, crop.height) for edge in (top, bottom))
    left, right = (_move_edge(edge, source_width, crop.left, crop.width) for edge in (left, right))
    return [top, left, bottom, right] if top < bottom and left < right else None


def _move_edge(edge: int, source_side: int, crop_start: float, crop_side: float) -> int:
    pixel = edge / BOX_UNITS * source_side
    return round(min(max((pixel - crop_start) / crop_side, 0.0), 1.0) * BOX_UNITS)


# ---- findings ------------------------------------------------------------------------------------------------


def _check_root(caption: dict[str, Any]) -> Iterator[str]:
    known = dict(caption)
    if known.pop(_OLD_KEY, None) is not None:
        yield f"{_OLD_KEY} belongs to an older schema; it is removed before training"
    yield from _check_keys(known, _ROOT_KEYS, "the caption")
    if "high_level_description" in known:
        yield from _check_text(known["high_level_description"], "high_level_description")
    if "style_description" in known:
        yield from _check_style(known["style_description"])
    if "compositional_deconstruction" in known:
        yield from _check_layout(known["compositional_deconstruction"])


def _check_style(style: Any) -> Iterator[str]:
    where = "style_description"
    if not isinstance(style, dict):
        yield f"{where} must be an object"
        return
    if ("photo" in style) == ("art_style" in style):
        yield f"{where} must have exactly one of photo and art_style"
        return
    keys = _PHOTO_KEYS if "photo" in style else _ART_KEYS
    yield from _check_keys(style, keys, where)
    for key in keys[:-1]:
        if key in style:
            yield from _check_text(style[key], f"{where}.{key}")
    yield from _check_palette(style, where, MAX_IMAGE_COLOURS)


def _check_layout(layout: Any) -> Iterator[str]:
    where = "compositional_deconstruction"
    if not isinstance(layout, dict):
        yield f"{where} must be an object"
        return
    yield from _check_keys(layout, _LAYOUT_KEYS, where)
    if "background" in layout:
        yield from _check_text(layout["background"], f"{where}.background")
    elements = layout.get("elements", [])
    if not isinstance(elements, list):
        yield f"{where}.elements must be a list"
        return
    for number, element in enumerate(elements, start=1):
        yield from _check_element(element, f"element {number}")


def _check_element(element: Any, where: str) -> Iterator[str]:
    kind = element.get("type") if isinstance(element, dict) else None
    if not isinstance(kind, str) or kind not in _ELEMENT_KEYS:
        yield f'{where} must be an object of type "obj" or "text"'
        return
    yield from _check_keys(element, _ELEMENT_KEYS[kind], where)
    for key in ("text", "desc"):
        if key in element:
            yield from _check_text(element[key], f"{where}: {key}")
    if "bbox" in element and not _is_box(element["bbox"]):
        yield f"{where}: bbox must be [y_min, x_min, y_max, x_max], whole numbers from 0 to 1000, min below max"
    yield from _check_palette(element, where, MAX_ELEMENT_COLOURS)


def _check_keys(found: dict[str, Any], expected: tuple[str, ...], where: str) -> Iterator[str]:
    """Unknown and missing keys, and the order, which matters to the model."""
    unknown = [key for key in found if key not in expected]
    missing = [key for key in expected if key not in found and key not in _OPTIONAL]
    if unknown:
        yield f"{where} has unknown keys: {', '.join(key[:40] for key in unknown)}"
    if missing:
        yield f"{where} lacks {', '.join(missing)}"
    known = [key for key in found if key in expected]
    ordered = [key for key in expected if key in found]
    if known != ordered:
        yield f"{where} has its keys out of order: use {', '.join(ordered)}"


def _check_text(value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{where} must be text"


def _check_palette(holder: dict[str, Any], where: str, most: int) -> Iterator[str]:
    if "color_palette" not in holder:
        return
    palette = holder["color_palette"]
    if not isinstance(palette, list) or not all(isinstance(c, str) and _COLOUR.fullmatch(c) for c in palette):
        yield f"{where}: color_palette must be a list of colours such as #A0B1C2, in capitals"
    elif len(palette) > most:
        yield f"{where}: color_palette has {len(palette)} colours, more than {most}"
