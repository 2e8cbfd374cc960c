"""Text on pictures: whatever the text, its lines fit."""

from __future__ import annotations

import json

import pytest
from ideogram4_lora_trainer.trainer_core.pictures import text

TEXTS = {
    "plain": "a red disc on a white table beside three green bars",
    "json": '{"a":{"b":"one|two {x|y} // not a comment"},"c":["https://example.org"]}',
    "one long word": "x" * 3000,
    "no spaces": "一只戴着红色帽子的猫坐在窗边窗外正在下雪远处有一座灯塔" * 20,
    "emoji": "👩‍👩‍👧‍👦 family 😀 and 🏳️‍🌈 flags",
    "right to left": "שלום עולם",
    "control characters": "a\x00b\x1b[31m\u202ec\r\n\td\ud800",
    "accents": "Übergröße, naïve café — “quoted”",
    "spaces": " \n\t ",
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("size_px", [12, 40])
@pytest.mark.parametrize("width", [1, 9, 64, 300])
def test_lines_fit_into_the_width(name: str, size_px: int, width: int) -> None:
    font = text.font_for(TEXTS[name], size_px)
    lines = text.fit_lines(TEXTS[name], font, width, 3)
    assert len(lines) <= 3
    assert all(font.getlength(line) <= width and line.strip() for line in lines)


def test_what_fits_is_whole_and_what_is_cut_says_so() -> None:
    font = text.font_for("a", 14)
    words = "one two three four five six seven"
    assert " ".join(text.fit_lines(words, font, 90, 9)) == words
    cut = text.fit_lines(words, font, 90, 2)
    assert cut[-1].endswith("...")
    assert words.startswith(" ".join(cut)[:-3])


def test_a_font_with_the_letters_is_chosen_and_letters_survive_without_one() -> None:
    assert text.drawable("Übergröße", text.font_for("a", 14)).startswith("Ubergro")
    font = text.font_for("Привет", 14)
    drawn = text.drawable("Привет", font)
    assert drawn == "Привет" or set(drawn) == {"\uffff"}, "by a font of the system, or as boxes"


def test_characters_that_cannot_be_drawn_are_seen_and_invisible_ones_are_not() -> None:
    font = text.font_for("a", 14)
    assert text.drawable("a\u200d\ufe0f\x00b", font) == "ab"
    assert text.drawable("a猫猫b", font) == "a\uffffb"


def test_a_json_caption_is_shown_by_its_summary() -> None:
    caption = {"high_level_description": "A lighthouse\nat dusk.", "style_description": {"medium": "x" * 5000}}
    assert text.label_text(json.dumps(caption)) == "A lighthouse at dusk."
    for other in ('{"high_level_description": 3}', '{"half": ', "{" * 5000, '["a"]', "{}"):
        assert text.label_text(other).startswith(other[:8])
