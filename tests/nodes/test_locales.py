"""Texts in other languages: nothing is missing, nothing is left over, and ComfyUI serves them.

`WRITE_LOCALES=1 python dev.py test tests/nodes/test_locales.py` writes the English file anew from the nodes.
"""

from __future__ import annotations

import asyncio
import os
import re
from types import ModuleType
from typing import Any

import pytest

import locales

LANGUAGES = ("zh",)
FILES = sorted(path.name for path in (locales.FOLDER / "en").glob("*.json"))


@pytest.fixture(scope="module")
def schemas(pack: ModuleType) -> dict[str, Any]:
    async def collect() -> dict[str, Any]:
        extension = await pack.comfy_entrypoint()
        return {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in await extension.get_node_list()}

    return asyncio.run(collect())


def test_english_is_what_the_nodes_say(schemas: dict[str, Any]) -> None:
    written = locales.as_json(locales.english(schemas))
    path = locales.FOLDER / "en" / locales.NODES
    if os.environ.get("WRITE_LOCALES"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == written, "set WRITE_LOCALES=1 and run this test again"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_translation_has_exactly_the_keys_of_english(language: str, name: str) -> None:
    here, there = (dict(locales.leaves(locales.read(folder, name))) for folder in (language, "en"))
    assert sorted(set(there) - set(here)) == [], "not translated"
    assert sorted(set(here) - set(there)) == [], "left over"
    assert all(isinstance(text, str) and text.strip() for text in here.values())


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_translation_keeps_numbers_and_what_is_typed(language: str, name: str) -> None:
    """Figures, file names and values of combos are the same in every language."""
    here, there = (dict(locales.leaves(locales.read(folder, name))) for folder in (language, "en"))
    for key, text in there.items():
        if key.rpartition(".")[2] not in ("tooltip", "description"):
            continue
        typed = set(
            re.findall(r"%\w+%|\w+\.(?:txt|json|safetensors|zip)|[a-z]+_[a-z_]+|\d[\d.,]*\d|\bWIDTHxHEIGHT\b", text)
        )
        assert {word for word in typed if word not in here.get(key, "")} == set(), key


@pytest.mark.parametrize("language", ("en", *LANGUAGES))
def test_nothing_is_read_as_a_command_of_the_frontend(language: str) -> None:
    """vue-i18n fills {x}, follows @:x, and takes a|b for singular and plural."""
    for path in (locales.FOLDER / language).glob("*.json"):
        for key, text in locales.leaves(locales.read(language, path.name)):
            assert not re.search(r"[{}|@]", text), key


def test_comfyui_serves_them(comfy_server: Any) -> None:
    served = comfy_server.client.get("/i18n")
    for language in ("en", *LANGUAGES):
        for node_id, texts in locales.read(language, locales.NODES).items():
            assert served[language]["nodeDefs"][node_id] == texts
