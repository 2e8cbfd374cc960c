"""The texts of the nodes as ComfyUI's frontend reads them from `locales/<language>/nodeDefs.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "locales"
NODES = "nodeDefs.json"


def english(schemas: Mapping[str, Any]) -> dict[str, Any]:
    """What the schemas say: names, descriptions and tooltips by node id."""
    return {
        node_id: {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {i.id: {"name": i.display_name or i.id, "tooltip": i.tooltip} for i in schema.inputs},
            "outputs": {
                str(number): {"name": o.display_name, "tooltip": o.tooltip} for number, o in enumerate(schema.outputs)
            },
        }
        for node_id, schema in schemas.items()
    }


def read(language: str, name: str) -> dict[str, Any]:
    texts: dict[str, Any] = json.loads((FOLDER / language / name).read_text(encoding="utf-8"))
    return texts


def as_json(texts: Mapping[str, Any]) -> str:
    return json.dumps(texts, indent=2, ensure_ascii=False) + "\n"


def leaves(texts: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(`Ideogram4TrainLoRA.inputs.steps.tooltip`, text) of every text."""
    if isinstance(texts, dict):
        for key, value in texts.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, texts
