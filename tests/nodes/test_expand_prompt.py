"""The node that expands prompts, on the tiny text encoder, which can only write noise; and over the HTTP API."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from ideogram4_lora_trainer.trainer_core.errors import SettingsError

PROMPT = 'A sign that says "Open {late|early}" // at dusk'
CAPTION = '{"compositional_deconstruction":{"background":"a {b|c} // d","elements":[]}}'
VALUES = {"prompt": PROMPT, "expansion": "medium", "seed": 3, "width": 1024, "height": 768}


@pytest.fixture(scope="module")
def node(pack: ModuleType) -> Any:
    from ideogram4_lora_trainer.nodes.expand_prompt import Ideogram4ExpandPrompt

    return Ideogram4ExpandPrompt


@pytest.mark.parametrize("expansion", ["none", "medium", "large"])
def test_the_prompt_and_what_became_of_it_come_out(node: Any, tiny_clip: Any, expansion: str) -> None:
    before = torch.random.get_rng_state()
    outputs = [node.execute(clip=tiny_clip, **{**VALUES, "expansion": expansion}) for _ in range(2)]
    assert outputs[0].result == outputs[1].result == (PROMPT,)
    (told,) = outputs[0].ui["ideogram4_prompt"]
    assert told["text"] == PROMPT and told["expanded"] is False
    assert told["note"].endswith("used as it is.") or "used as it is. Reason" in told["note"]
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": 7},
        {"expansion": "huge"},
        {"expansion": None},
        {"seed": -1},
        {"seed": 2**64},
        {"seed": float("nan")},
        {"width": 10**9},
        {"height": "768"},
    ],
)
def test_values_of_links_are_looked_at_again(node: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        node.execute(clip=None, **{**VALUES, **wrong})


def test_history_tells_which_prompt_was_used(comfy_server: SimpleNamespace) -> None:
    """Also where the result was cached."""
    clip = {"clip_name": "qwen3vl_tiny.safetensors", "type": "ideogram4", "device": "default"}
    graph: dict[str, Any] = {"1": {"class_type": "CLIPLoader", "inputs": clip}}
    wishes = {"2": (PROMPT, "medium"), "3": (CAPTION, "large"), "4": (PROMPT, "none")}
    for number, (prompt, expansion) in wishes.items():
        inputs = {**VALUES, "prompt": prompt, "expansion": expansion, "clip": ["1", 0]}
        graph[number] = {"class_type": "Ideogram4ExpandPrompt", "inputs": inputs}
        graph[f"{number}0"] = {"class_type": "PreviewAny", "inputs": {"source": [number, 0]}}
    first, again = (comfy_server.client.run(graph) for _ in range(2))
    for number, (prompt, _) in wishes.items():
        assert first[f"{number}0"]["text"] == [prompt]
        (told,) = first[number]["ideogram4_prompt"]
        assert told["text"] == prompt and told["expanded"] is False
        assert again[number] == first[number]
    notes = [first[number]["ideogram4_prompt"][0]["note"] for number in wishes]
    assert "no usable caption" in notes[0] and "is JSON already" in notes[1] and "is off" in notes[2]
