"""The example graphs in API format, with tiny models and sizes filled in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "example_workflows" / "api"
Graph = dict[str, dict[str, Any]]


def load(name: str, *, model: str = "bf16", size: int = 64, steps: int = 3, dataset: str = "dataset.zip") -> Graph:
    """`train_from_zip`, `text_to_image` or `image_to_image` on the tiny models."""
    graph: Graph = json.loads((FOLDER / f"{name}.api.json").read_text(encoding="utf-8"))
    for node in graph.values():
        inputs = node["inputs"]
        match node["class_type"]:
            case "UNETLoader":
                twin = "unconditional_" if "unconditional" in inputs["unet_name"] else ""
                inputs["unet_name"] = f"ideogram4_tiny_{twin}{model}.safetensors"
            case "CLIPLoader":
                inputs["clip_name"] = "qwen3vl_tiny.safetensors"
            case "VAELoader":
                inputs["vae_name"] = "flux2_tiny_vae.safetensors"
            case "Ideogram4LoadDataset":
                inputs["dataset"] = dataset
            case "Ideogram4ResolveResolution":
                inputs.update(resolution="custom", custom=f"{size}x{size}")
            case "Ideogram4TrainLoRA":
                inputs.update(steps=steps, rank=8, learning_rate=2e-3)
            case "EmptyFlux2LatentImage" | "ImageScale":
                inputs.update(width=size, height=size)
            case "Ideogram4Scheduler":
                inputs.update(steps=4, width=max(size, 256), height=max(size, 256))
    return graph


def node(graph: Graph, class_type: str) -> dict[str, Any]:
    """The inputs of the one node of that class."""
    (found,) = (n["inputs"] for n in graph.values() if n["class_type"] == class_type)
    return found


def node_id(graph: Graph, class_type: str) -> str:
    (found,) = (key for key, n in graph.items() if n["class_type"] == class_type)
    return found
