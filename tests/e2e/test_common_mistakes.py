"""What people get wrong (tests/support/mistakes.py), and the words they are then shown.

The words are kept in common_mistakes.txt and compared to the letter: read that file as somebody who has never seen
the code. After a message has been changed on purpose, write it anew with

    UPDATE_SNAPSHOTS=1 python dev.py test tests/e2e/test_common_mistakes.py
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import tiny_host  # loaded by tests/conftest.py
from mistakes import MISTAKES
from workflows import Graph

SNAPSHOT = Path(__file__).with_name("common_mistakes.txt")


def shown(server: SimpleNamespace, graph: Graph) -> str:
    """What the user sees: the failing node's title, and the message; this machine's folders taken out."""
    names = {key: info["display_name"] for key, info in server.client.get("/object_info").items()}
    try:
        record = server.client.wait(server.client.queue(graph))
    except tiny_host.HostError as refused:
        text = refused_words(str(refused), names)
    else:
        assert record["status"]["status_str"] == "error", "the graph ran"
        (detail,) = (detail for kind, detail in record["status"]["messages"] if kind == "execution_error")
        text = f"{names[detail['node_type']]}: {detail['exception_message'].strip()}"
    return text.replace(str(server.base), "<ComfyUI>")


def refused_words(answer: str, names: dict[str, str]) -> str:
    """The first error of a prompt that ComfyUI refused to queue."""
    body = json.loads(answer.partition(": HTTP 400: ")[2])
    (failing,) = body["node_errors"].values()
    (error,) = failing["errors"]
    return f"{names[failing['class_type']]}: {error['details'].partition(' - ')[2]}"


def read_snapshot() -> dict[str, str]:
    text = SNAPSHOT.read_text(encoding="utf-8") if SNAPSHOT.exists() else ""
    return {title: words.strip() for title, words in re.findall(r"^## (.+)\n(.+)$", text, flags=re.MULTILINE)}


def write_snapshot(told: dict[str, str]) -> None:
    blocks = [f"## {title}\n{told[title]}\n" for title in MISTAKES if title in told]
    SNAPSHOT.write_text(
        "# What people get wrong, and what they are then told\n\n" + "\n".join(blocks), encoding="utf-8"
    )


@pytest.fixture(scope="module")
def kept() -> Iterator[dict[str, str]]:
    """The messages as they were; with UPDATE_SNAPSHOTS=1 the tests change them, and they are written at the end."""
    messages = read_snapshot()
    yield messages
    if updating():
        write_snapshot(messages)


def updating() -> bool:
    return os.environ.get("UPDATE_SNAPSHOTS") == "1"


@pytest.mark.parametrize("title", MISTAKES)
def test_message(pack: ModuleType, comfy_server: SimpleNamespace, kept: dict[str, str], title: str) -> None:
    made = MISTAKES[title](comfy_server)
    words = made if isinstance(made, str) else shown(comfy_server, made)
    if updating():
        kept[title] = words
    assert words == kept.get(title)
    check_form(words)


def check_form(words: str) -> None:
    """What every message has in common; whether it helps, only a reader can tell."""
    assert words.isprintable()
    assert words.endswith(".")
    assert len(words) < 700
    assert not re.search(r"Errno|Traceback|Exception|Error\b|None|<class|0x[0-9a-f]{6}", words)


def test_every_message_that_is_kept_belongs_to_a_mistake() -> None:
    assert read_snapshot().keys() == MISTAKES.keys() or updating()
    assert len(MISTAKES) >= 25
