"""The graphs of the example workflows, in ComfyUI's API format, to be filled in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...trainer_core.dataset import PRESETS
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


def set_resolution(graph: Graph, resolution: str) -> None:
    """auto, a preset or WIDTHxHEIGHT, as the node has them."""
    choice = resolution.strip().lower()
    inputs = inputs_of(graph, "Ideogram4ResolveResolution")
    inputs["resolution"] = choice if choice in ("auto", *PRESETS) else "custom"
    if inputs["resolution"] == "custom":
        inputs["custom"] = resolution


def set_output(graph: Graph, prefix: str, layout: str) -> None:
    """Where the LoRA goes. The plot of the loss is for whoever looks at the graph, and is left out."""
    inputs_of(graph, "Ideogram4SaveLoRA").update(filename_prefix=prefix, output_lora_format=layout)
    del graph[node_of(graph, "LossGraphNode")]
