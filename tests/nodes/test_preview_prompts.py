"""The text box of the previews node: one prompt a line, JSON as it was written."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
from ideogram4_lora_trainer.trainer_core.errors import SettingsError

CAPTION = {"compositional_deconstruction": {"background": "a {b|c} // d", "elements": []}}


@pytest.fixture(scope="module")
def split(pack: ModuleType) -> Any:
    from ideogram4_lora_trainer.nodes.previews import split_prompts

    return split_prompts


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("a cat", ["a cat"]),
        ("  a cat \r\n\r\n\n a dog\n", ["a cat", "a dog"]),
        (json.dumps(CAPTION), [json.dumps(CAPTION)]),
        (json.dumps(CAPTION, indent=2), [json.dumps(CAPTION, indent=2)]),
        ("a cat\n" + json.dumps(CAPTION, indent=2) + "\na dog", ["a cat", json.dumps(CAPTION, indent=2), "a dog"]),
        (json.dumps(CAPTION) + " and more", [json.dumps(CAPTION) + " and more"]),
        ("{a|b} in the rain", ["{a|b} in the rain"]),
        ("{broken\nline", ["{broken", "line"]),
        ("[1, 2]", ["[1, 2]"]),
        ("鸟 🐦\n// not a comment", ["鸟 🐦", "// not a comment"]),
        ("{" * 5000, ["{" * 5000]),
    ],
)
def test_prompts_are_kept_as_they_were_written(split: Any, text: str, prompts: list[str]) -> None:
    assert split(text) == tuple(prompts)


@pytest.mark.parametrize(("text", "words"), [("", "is empty"), (" \n\n", "is empty"), ("a\n" * 9, "9 prompts")])
def test_none_and_too_many_are_refused(split: Any, text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        split(text)
