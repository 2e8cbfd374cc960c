"""The graphs of the example workflows, in ComfyUI's API format, to be filled in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .base_models import BaseModels

Graph = dict[str, dict[str, Any]]
FOLDER = Path(__file__).resolve().parents[2] / "example_workflows" / "api"


def load(name: str) -> Graph:
    """A graph of its own, to be changed freely."""
    graph: Graph = json.loads((FOLDER / f"{name}.api.json").read_text(encoding="utf-8"))
    return graph


def node_of(graph: Graph, class_type: str) -> str:
    """The id of the one node of that class."""
    (found,) = (node_id for node_id, node in graph.items() if node["class_type"] == class_type)
    return found


def inputs_of(graph: Graph, class_type: str) -> dict[str, Any]:
    """The inputs of the one node of that class."""
    return graph[node_of(graph, class_type)]["inputs"]


def set_models(graph: Graph, models: BaseModels) -> None:
    """Let the loaders of a graph load these files."""
    for node in graph.values():
        inputs = node["inputs"]
        match node["class_type"]:
            case "UNETLoader":
                twin = "unconditional" in inputs["unet_name"]
                inputs["unet_name"] = models.unconditional if twin else models.diffusion_model
            case "CLIPLoader":
                inputs["clip_name"] = models.text_encoder
            case "VAELoader":
                inputs["vae_name"] = models.vae
