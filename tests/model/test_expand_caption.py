"""What language models write, made into captions: fences, chatter, wrong order, boxes, colours, lost texts, abuse."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ideogram4_lora_trainer.trainer_core.dataset.json_caption import check_json_caption
from ideogram4_lora_trainer.trainer_core.model.expand_caption import (
    Unusable,
    as_drafted,
    as_text,
    quoted_texts,
    read_caption,
)

PHOTO = {"aesthetics": "calm", "lighting": "dusk", "photo": "35 mm", "medium": "photograph"}
PAINTING = {"aesthetics": "calm", "lighting": "dusk", "medium": "oil", "art_style": "impressionism"}
CAT = {"type": "obj", "bbox": [10, 20, 30, 40], "desc": "a cat"}
SIGN = {"type": "text", "bbox": [100, 200, 900, 300], "text": "Open late", "desc": "neon"}


def caption(*elements: Any, **others: Any) -> dict[str, Any]:
    return {**others, "compositional_deconstruction": {"background": "a street", "elements": list(elements)}}


def elements_of(reply: Any, quoted: list[str] | None = None) -> list[dict[str, Any]]:
    read = read_caption(reply if isinstance(reply, str) else json.dumps(reply), quoted or [])
    assert check_json_caption(as_text(read)) == []
    elements: list[dict[str, Any]] = read["compositional_deconstruction"]["elements"]
    return elements


# ---- finding it ----------------------------------------------------------------------------------------------

WHOLE = json.dumps(caption(CAT))


@pytest.mark.parametrize(
    "reply",
    [
        WHOLE,
        json.dumps(caption(CAT), indent=2),
        f"```json\n{WHOLE}\n```",
        f"Here is the caption {{as asked}}:\n\n{WHOLE}\n\nShall I change {{anything}}?",
        f"<think>\nA cat. {json.dumps(caption())}\n</think>\n\n{WHOLE}",
        f'{{"caption": {WHOLE}}}',
        f"{WHOLE[:-30]}\nI begin again.\n{WHOLE}",
        WHOLE.replace("a street", "a\nstreet"),
    ],
)
def test_the_last_whole_caption_of_a_reply_is_read(reply: str) -> None:
    assert read_caption(reply, []) == read_caption(WHOLE, [])


@pytest.mark.parametrize("end", range(1, len(WHOLE), 7))
def test_a_caption_that_breaks_off_is_not_usable(end: int) -> None:
    with pytest.raises(Unusable):
        read_caption(WHOLE[:end], [])


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "No.",
        "{" * 40_000,
        '{"a":' * 8_000,
        '[{"a":' * 6_000,
        json.dumps([caption(CAT)])[:30],
        json.dumps({"compositional_deconstruction": "a cat"}),
        json.dumps({"compositional_deconstruction": {"elements": []}}),
        json.dumps({"compositional_deconstruction": {"background": "x", "elements": {}}}),
        json.dumps({"compositional_deconstruction": {"background": 3, "elements": []}}),
        '{"compositional_deconstruction":{"background":"\\ud800","elements":[]}}',
        f'{{"n":{"9" * 9000},"compositional_deconstruction":{{"background":"x","elements":[]}}}}',
        WHOLE.replace("a street", "x" * 50_000),
        WHOLE.replace('"', "'"),
    ],
)
def test_what_is_no_caption_is_refused_with_a_reason(reply: str) -> None:
    with pytest.raises(Unusable) as refusal:
        read_caption(reply, [])
    assert 0 < len(str(refusal.value)) < 300


# ---- putting it right ----------------------------------------------------------------------------------------


def test_keys_are_put_in_order_and_unknown_ones_dropped() -> None:
    style = {"mood": "x", "color_palette": ["#a0b1c2", "red", 7], **dict(reversed(PHOTO.items())), "art_style": ""}
    cat = {"desc": "a cat", "score": 0.9, "bbox": [10, 20, 30, 40], "type": "obj", "color_palette": ["#ffffff"] * 9}
    layout = {"elements": [cat], "foreground": "", "background": "a street"}
    reply = {"compositional_deconstruction": layout, "style_description": style, "high_level_description": "A  cat."}
    read = read_caption(json.dumps(reply), [])
    assert check_json_caption(as_text(read)) == []
    assert list(read) == ["high_level_description", "style_description", "compositional_deconstruction"]
    assert read["high_level_description"] == "A cat."
    assert list(read["style_description"]) == [*PHOTO, "color_palette"]
    assert read["style_description"]["color_palette"] == ["#A0B1C2"]
    assert elements_of(reply) == [
        {"type": "obj", "bbox": [20, 10, 40, 30], "desc": "a cat", "color_palette": ["#FFFFFF"]}
    ]


@pytest.mark.parametrize(
    ("style", "keys"),
    [
        (PHOTO, list(PHOTO)),
        (PAINTING, list(PAINTING)),
        ({**PHOTO, "art_style": "realism"}, list(PHOTO)),
        ({**PAINTING, "photo": "none"}, list(PAINTING)),
        ({**PHOTO, "photo": ""}, None),
        ({**PHOTO, "lighting": ["dusk"]}, None),
        ("a photo", None),
    ],
)
def test_a_style_is_whole_and_of_one_kind_or_left_out(style: Any, keys: list[str] | None) -> None:
    read = read_caption(json.dumps(caption(CAT, style_description=style)), [])
    assert check_json_caption(as_text(read)) == []
    assert (list(read["style_description"]) if "style_description" in read else None) == keys


@pytest.mark.parametrize(
    ("box", "kept"),
    [
        ([100, 200, 300, 400], [200, 100, 400, 300]),
        ([300, 400, 100, 200], [200, 100, 400, 300]),
        ([100.0, 200.0, 300.0, 400.0], [200, 100, 400, 300]),
        ([-5, -1, 1004, 1050], [0, 0, 1000, 1000]),
        ([0, 0, 1536, 1024], None),
        ([100, 200, 100, 400], None),
        ([0.1, 0.2, 0.3, 0.4], None),
        ([1, 2, 3], None),
        ([1, 2, 3, True], None),
        ([1, 2, 3, "4"], None),
        ([0, 0, 1e999, 4], None),
        ([0, 0, float("nan"), 4], None),
        ("100, 200, 300, 400", None),
        ({"x": 1}, None),
    ],
)
def test_boxes_are_turned_clipped_or_dropped(box: Any, kept: list[int] | None) -> None:
    (element,) = elements_of(caption({**CAT, "bbox": box}))
    assert element.get("bbox") == kept and element["desc"] == "a cat"


def test_elements_that_show_nothing_are_dropped() -> None:
    odd = ["a dog", None, {}, {"type": "obj"}, {"type": "text", "desc": "neon"}, {"type": "text", "text": " "}]
    typeless = [{"text": "Hi"}, {"desc": "a dog"}, {"type": "person", "desc": "a girl"}]
    elements = elements_of(caption(*odd, *typeless))
    assert [(e["type"], e.get("text", e["desc"])) for e in elements] == [
        ("text", "Hi"),
        ("obj", "a dog"),
        ("obj", "a girl"),
    ]


def test_a_draft_goes_back_to_the_model_as_it_writes_them() -> None:
    read = read_caption(json.dumps(caption(CAT, SIGN)), [])
    assert read_caption(as_drafted(read), []) == read
    assert json.loads(as_drafted(read)) == caption(CAT, SIGN)


# ---- texts in quotes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ('a sign "Open late"', ["Open late"]),
        ('"A" and "B", then "A"', ["A", "B"]),
        ('"Fresh fish," says the board', ["Fresh fish"]),
        ('two\n"lines  of\ntext"', ["lines of text"]),
        ("a sign 'Open late' and 'Joe's Bar'", ["Open late", "Joe's Bar"]),
        ("\u2018Open late\u2019, \u2018Joe\u2019s Bar\u2019", ["Open late", "Joe\u2019s Bar"]),
        ("“Open” „Offen“ «Ouvert» « Ouvert tard » »Auf« »Zu«", ["Open", "Offen", "Ouvert", "Ouvert tard", "Auf", "Zu"]),
        ('写着"你好"的招牌「営業中」『準備中』', ["你好", "営業中", "準備中"]),
        ('a 12" pizza and a 10" plate', []),
        ("the dogs' bowl, rock 'n' roll, the '90s and the '80s, it's Joe's", []),
        ('"" \' \' "', []),
        ("a cat", []),
    ],
)
def test_texts_in_quotes(prompt: str, texts: list[str]) -> None:
    assert quoted_texts(prompt) == texts


@pytest.mark.parametrize(
    "written",
    [["Open late"], ["Open\nlate"], ["Open", "late"], ["Welcome! Open late."], ["OPEN LATE"], ['"open late!"']],
)
def test_a_quoted_text_stands_in_the_caption_letter_by_letter(written: list[str]) -> None:
    elements = elements_of(caption(*({"type": "text", "text": text, "desc": ""} for text in written)), ["Open late"])
    assert "Open late" in " ".join(" ".join(element["text"] for element in elements).split())


@pytest.mark.parametrize("written", [[], ["Open"], ["Open  latest"], ["late Open"], ["Op\u0435n late"], ["Open later"]])
def test_a_caption_without_a_quoted_text_is_not_usable(written: list[str]) -> None:
    elements = [{"type": "text", "text": text, "desc": ""} for text in written]
    with pytest.raises(Unusable, match="lost the text 'Open late'"):
        read_caption(json.dumps(caption({**CAT, "desc": "Open late"}, *elements)), ["Open late"])


def test_quotes_without_end_take_no_time() -> None:
    for prompt in ("'a " * 3000, '"a ' * 3000, "“" * 8000, "' '" * 2700, "x'y " * 2000):
        quoted_texts(prompt)
