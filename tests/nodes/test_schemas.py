"""Ids, sockets and help texts of the nodes: what shared workflows depend on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FROZEN = Path(__file__).with_name("frozen_nodes.json")


@pytest.fixture(scope="module")
def schemas(pack: ModuleType) -> dict[str, Any]:
    async def collect() -> dict[str, Any]:
        extension = await pack.comfy_entrypoint()
        return {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in await extension.get_node_list()}

    return asyncio.run(collect())


def test_ids_inputs_and_outputs_are_frozen(schemas: dict[str, Any]) -> None:
    """Renaming or retyping breaks saved workflows. New optional inputs are added to the file by hand."""
    current = {
        node_id: {
            "inputs": {i.id: [i.get_io_type(), "optional" if i.optional else "required"] for i in schema.inputs},
            "outputs": [[o.display_name, o.get_io_type()] for o in schema.outputs],
        }
        for node_id, schema in schemas.items()
    }
    assert current == json.loads(FROZEN.read_text(encoding="utf-8"))


def test_every_input_and_output_is_explained_and_every_node_can_be_found(schemas: dict[str, Any]) -> None:
    for node_id, schema in schemas.items():
        assert schema.description and schema.search_aliases, node_id
        assert schema.category == "model/training/ideogram 4", node_id
        for socket in [*schema.inputs, *schema.outputs]:
            assert socket.tooltip and socket.tooltip.endswith("."), f"{node_id}: {socket.display_name}"


def test_settings_stay_few(schemas: dict[str, Any]) -> None:
    inputs = schemas["Ideogram4TrainSettings"].inputs
    assert len([i for i in inputs if not i.advanced]) <= 16


def test_settings_node_and_settings_agree(schemas: dict[str, Any]) -> None:
    """Every setting has exactly one place, and the node's defaults and limits are those of the dataclass."""
    from dataclasses import asdict

    from ideogram4_lora_trainer.trainer_core.config import TrainSettings

    inputs = {i.id: i for name in ("Ideogram4TrainSettings", "Ideogram4TrainLoRA") for i in schemas[name].inputs}
    links, places = ("model", "training_data", "settings", "previews"), ("resume", "if_changed", "start_from_lora")
    for other in (*links, *places, "run_name"):
        del inputs[other]
    assert {name: i.default for name, i in inputs.items()} == asdict(TrainSettings())
    for name, widget in inputs.items():
        for limit in ("min", "max"):
            if getattr(widget, limit, None) is not None:
                TrainSettings(**{name: getattr(widget, limit)})
