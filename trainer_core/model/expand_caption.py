"""What a language model wrote, made into a JSON caption or refused.

Covered: words and code fences around the caption, a caption that breaks off, keys that are unknown, missing or out of
order, boxes as x, y and outside the picture, colours in small letters, numbers and nesting without end, and texts in
quotes that were lost on the way. Not covered: whether the caption says what the prompt says.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from ..dataset.json_caption import BOX_UNITS, MAX_ELEMENT_COLOURS, MAX_IMAGE_COLOURS, check_json_caption

MAX_REPLY = 40_000
"""Characters that are looked at; more than 3072 tokens of a caption have."""
MAX_STARTS = 50
"""Places in a reply where a caption may begin."""
MAX_QUOTED = 20
"""Texts in quotes that are looked after."""
BOX_SLACK = 50
"""Thousandths by which a box may leave the picture and is clipped. Further out it counts something else."""

_START = re.compile(r'\{\s*"')
_COLOUR = re.compile(r"#[0-9A-F]{6}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffd]")
_LAYOUT = "compositional_deconstruction"
_STYLE_BEFORE, _STYLES = ("aesthetics", "lighting"), ("photo", "art_style")

# Straight quotes count at the edge of a word only, for inches and apostrophes are written with the same marks.
_QUOTED = re.compile(
    r'(?<![0-9A-Za-z])"(?=\S)([^"]*?[^\s"])"(?![0-9A-Za-z])'
    r"|(?<![0-9A-Za-z])'(?=[^\s'])((?:[^'\n]|(?<=\w)'(?=\w))*?[^\s'])'(?![0-9A-Za-z])"
    r"|\u2018((?:[^\u2018\u2019]|(?<=\w)\u2019(?=\w))+?)\u2019(?![0-9A-Za-z])"
    r"|[“„]([^“„”]+)[“”]|»([^«»]+)«|«([^«»]+)»|「([^「」]+)」|『([^『』]+)』"
)
_SAME = str.maketrans("\u2018\u2019“”„\u2013—", '\'\'"""--')


class Unusable(ValueError):
    """A reply that gives no caption; the words say why."""


def read_caption(reply: str, quoted: Sequence[str]) -> dict[str, Any]:
    """The last whole caption in a reply: keys and boxes in the schema's order, the `quoted` texts letter by letter.

    Raises `Unusable`.
    """
    caption = _repaired(_last_caption(reply[:MAX_REPLY]))
    lost = _keep_texts(caption, quoted)
    if lost:
        raise Unusable(f"it lost the text {lost[0][:80]!r}")
    findings = check_json_caption(as_text(caption))
    if findings is None or findings:
        raise Unusable(findings[0] if findings else "it is no JSON object")
    return caption


def as_text(caption: dict[str, Any]) -> str:
    """A caption as the image model was trained on it: without spaces, and nothing escaped that need not be."""
    return json.dumps(caption, separators=(",", ":"), ensure_ascii=False)


def as_drafted(caption: dict[str, Any]) -> str:
    """A caption as the language model writes it, its boxes with x before y."""
    layout = caption[_LAYOUT]
    elements = [
        {key: [value[1], value[0], value[3], value[2]] if key == "bbox" else value for key, value in element.items()}
        for element in layout["elements"]
    ]
    return as_text({**caption, _LAYOUT: {**layout, "elements": elements}})


def quoted_texts(prompt: str) -> list[str]:
    """The texts in quotes in a prompt, each once, at most `MAX_QUOTED`."""
    found: list[str] = []
    for match in _QUOTED.finditer(prompt):
        # A comma at the end belongs to the sentence around the quote; a letter alone in '...' is one of rock 'n' roll.
        text = _spaced(next(group for group in match.groups() if group)).removesuffix(",")
        if text and text not in found and not (len(text) == 1 and (match.group(2) or match.group(3))):
            found.append(text)
    return found[:MAX_QUOTED]


# ---- finding it ----------------------------------------------------------------------------------------------


def _last_caption(reply: str) -> dict[str, Any]:
    """The last object in a reply that has the layout of a caption. Raises `Unusable`."""
    decoder = json.JSONDecoder(strict=False)
    caption, position = None, 0
    for _ in range(MAX_STARTS):
        start = _START.search(reply, position)
        if start is None:
            break
        position = start.end()
        try:
            value, end = decoder.raw_decode(reply, start.start())
        except (ValueError, RecursionError):  # broken off, no JSON, a number of thousands of digits; nested too deeply
            continue
        if isinstance(value.get(_LAYOUT), dict):
            caption, position = value, end
    if caption is None:
        raise Unusable("its caption is broken or breaks off" if _LAYOUT in reply else "it holds no JSON caption")
    return caption


# ---- putting it right ----------------------------------------------------------------------------------------


def _repaired(caption: dict[str, Any]) -> dict[str, Any]:
    """What of a caption the schema knows, in its order. Raises `Unusable` where what it needs is missing."""
    layout = caption[_LAYOUT]
    background, elements = _words(layout.get("background")), layout.get("elements")
    if not background:
        raise Unusable("it describes no background")
    if not isinstance(elements, list):
        raise Unusable("it has no list of elements")
    summary, style = _words(caption.get("high_level_description")), _style(caption.get("style_description"))
    return {
        **({"high_level_description": summary} if summary else {}),
        **({"style_description": style} if style else {}),
        _LAYOUT: {"background": background, "elements": [e for e in map(_element, elements) if e]},
    }


def _style(style: Any) -> dict[str, Any]:
    """{} where something is missing, for it is optional as a whole."""
    if not isinstance(style, dict):
        return {}
    words = {key: _words(style.get(key)) for key in (*_STYLE_BEFORE, "medium", *_STYLES)}
    if words["photo"] and words["art_style"]:
        words["art_style" if "photo" in words["medium"].casefold() else "photo"] = ""
    last = ("photo", "medium") if words["photo"] else ("medium", "art_style")
    keys = (*_STYLE_BEFORE, *last)
    if not all(words[key] for key in keys):
        return {}
    return {**{key: words[key] for key in keys}, **_palette(style, MAX_IMAGE_COLOURS)}


def _element(element: Any) -> dict[str, Any]:
    """{} where there is nothing to be seen or read."""
    if not isinstance(element, dict):
        return {}
    description, letters = _words(element.get("desc")), element.get("text")
    letters = _CONTROL.sub("", letters).strip() if isinstance(letters, str) else ""
    box, kind = _box(element.get("bbox")), element.get("type")
    where = {"bbox": box} if box else {}
    if letters and kind != "obj":
        start: dict[str, Any] = {"type": "text", **where, "text": letters}
    elif description and kind != "text":
        start = {"type": "obj", **where}
    else:
        return {}
    return {**start, "desc": description, **_palette(element, MAX_ELEMENT_COLOURS)}


def _box(box: Any) -> list[int] | None:
    """[y_min, x_min, y_max, x_max] of a model's [x_min, y_min, x_max, y_max]; None where that is no box."""
    if not isinstance(box, list) or len(box) != 4:
        return None
    for edge in box:
        if not (type(edge) is int or (type(edge) is float and edge.is_integer())):
            return None
        if not -BOX_SLACK <= edge <= BOX_UNITS + BOX_SLACK:
            return None
    x1, y1, x2, y2 = (min(max(int(edge), 0), BOX_UNITS) for edge in box)
    (left, right), (top, bottom) = sorted((x1, x2)), sorted((y1, y2))
    return [top, left, bottom, right] if top < bottom and left < right else None


def _palette(holder: dict[str, Any], most: int) -> dict[str, list[str]]:
    palette = holder.get("color_palette")
    if not isinstance(palette, list):
        return {}
    colours = [colour.strip().upper() for colour in palette if isinstance(colour, str)]
    known = list(dict.fromkeys(colour for colour in colours if _COLOUR.fullmatch(colour)))[:most]
    return {"color_palette": known} if known else {}


def _words(value: Any) -> str:
    """Text in one line; "" for what is none."""
    return _spaced(_CONTROL.sub("", value)) if isinstance(value, str) else ""


def _spaced(text: str) -> str:
    return " ".join(text.split())


# ---- texts in quotes -----------------------------------------------------------------------------------------


def _keep_texts(caption: dict[str, Any], quoted: Sequence[str]) -> list[str]:
    """Write quoted texts as the prompt has them where an element has them nearly so; those that none has."""
    elements = [element for element in caption[_LAYOUT]["elements"] if element["type"] == "text"]
    lost = []
    for text in quoted:
        # Also over several elements: a long text may be set in lines.
        written = unicodedata.normalize("NFC", _spaced(" ".join(element["text"] for element in elements)))
        if re.search(rf"(?<!\w){re.escape(unicodedata.normalize('NFC', text))}(?!\w)", written):
            continue
        near = [element for element in elements if _loose(element["text"]) == _loose(text)]
        for element in near:
            element["text"] = text
        if not near:
            lost.append(text)
    return lost


def _loose(text: str) -> str:
    """`text` but for case, kinds of quotes and dashes, and marks around it."""
    return _spaced(unicodedata.normalize("NFKC", text).translate(_SAME).casefold()).strip(" \"'.,:;!?")
