"""The example workflows as users open them (UI format), and the prompts that they must turn into."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "example_workflows"
BLUEPRINT = ROOT / "subgraphs" / "Train Ideogram 4 LoRA.json"
API_FOLDER = ROOT / "example_workflows" / "api"

FILES = {
    "train_from_zip": "Train a LoRA from a zip",
    "train_and_watch": "Train a LoRA and watch it",
    "compare_lora": "Compare a LoRA with the base model",
    "text_to_image": "Text to image with a LoRA",
    "image_to_image": "Image to image with LoRAs",
}
"""API graph to example workflow; both without their suffix."""
BYPASSED: dict[str, list[str]] = {**{name: [] for name in FILES}, "image_to_image": ["5", "6"]}
"""Nodes that are switched off in the example, each with the node it takes its model from as its input `model`."""
FRONTEND_ONLY = {"MarkdownNote"}
PACK = "ideogram4-lora-trainer"
MODEL_FILES = {
    "UNETLoader": (
        "diffusion_models",
        ["ideogram4_fp8_scaled.safetensors", "ideogram4_unconditional_fp8_scaled.safetensors"],
    ),
    "CLIPLoader": ("text_encoders", ["qwen3vl_8b_fp8_scaled.safetensors"]),
    "VAELoader": ("vae", ["flux2-vae.safetensors"]),
}
"""Loader class to the folder of its files and their names."""

ACTIVE, BYPASS = 0, 4
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")

Graph = dict[str, dict[str, Any]]
Schemas = dict[str, dict[str, Any]]
"""What the server's /object_info says."""


def load_ui(name: str) -> dict[str, Any]:
    workflow: dict[str, Any] = json.loads((FOLDER / f"{FILES[name]}.json").read_text(encoding="utf-8"))
    return workflow


def load_api(name: str) -> Graph:
    graph: Graph = json.loads((API_FOLDER / f"{name}.api.json").read_text(encoding="utf-8"))
    return graph


def place_named_files(base: Path, picture: bytes, *, dataset: bytes = b"") -> Path:
    """Empty files under all names that the examples ask for, so that lists offer them. Returns the models folder.

    The server then shows what a user sees who has everything; nothing can be run.
    """
    files = [base / "models" / folder / name for folder, names in MODEL_FILES.values() for name in names]
    files += [base / "input" / "dataset.zip", base / "output" / "loras" / "ideogram4_00001.safetensors"]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (base / "input" / "dataset.zip").write_bytes(dataset)
    (base / "input" / "example.png").write_bytes(picture)  # the name that ComfyUI's own example has
    return base / "models"


def expected_prompt(name: str, schemas: Schemas) -> Graph:
    """The API graph as the frontend has to send it: without bypassed nodes, and with every widget's value."""
    graph = load_api(name)
    for skipped in BYPASSED[name]:
        source = graph.pop(skipped)["inputs"]["model"]
        for node in graph.values():
            node["inputs"] = {key: source if value == [skipped, 0] else value for key, value in node["inputs"].items()}
    for node in graph.values():
        for widget, spec in declared_inputs(schemas[node["class_type"]]).items():
            if is_widget(spec) and widget not in node["inputs"]:
                node["inputs"][widget] = spec[1]["default"]
    return graph


def declared_only(prompt: Graph, schemas: Schemas) -> Graph:
    """A prompt of the frontend without what is its own: `_meta`, and helpers such as the upload button."""
    return {
        key: {
            "class_type": node["class_type"],
            "inputs": {k: v for k, v in node["inputs"].items() if k in declared_inputs(schemas[node["class_type"]])},
        }
        for key, node in prompt.items()
    }


def declared_inputs(schema: dict[str, Any]) -> dict[str, list[Any]]:
    """Input name to its specification, in order."""
    return {**schema["input"].get("required", {}), **schema["input"].get("optional", {})}


def is_widget(spec: list[Any]) -> bool:
    return isinstance(spec[0], list) or spec[0] in WIDGET_TYPES


def widget_names(schema: dict[str, Any]) -> list[str]:
    """The entries of `widgets_values`, in order; "" for what the frontend adds of its own."""
    names = []
    for name, spec in declared_inputs(schema).items():
        if is_widget(spec):
            options = spec[1] if len(spec) > 1 else {}
            added = bool(options.get("control_after_generate")) + bool(options.get("image_upload"))
            names += [name] + [""] * added
    return names


def to_prompt(workflow: dict[str, Any], schemas: Schemas) -> Graph:
    """The API graph of a UI workflow, by rules of our own: a second opinion beside the frontend's."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: (link[1], link[2]) for link in workflow["links"]}

    def source(link: int) -> list[Any]:
        origin, slot = links[link]
        node = nodes[origin]
        if node["mode"] != BYPASS:
            return [str(origin), slot]
        kind = node["outputs"][slot]["type"]
        return source(next(i["link"] for i in node["inputs"] if i["type"] == kind and i["link"] is not None))

    prompt: Graph = {}
    for node in nodes.values():
        if node["mode"] != ACTIVE or node["type"] in FRONTEND_ONLY:
            continue
        names = widget_names(schemas[node["type"]])
        inputs = {name: value for name, value in zip(names, node.get("widgets_values", []), strict=True) if name}
        inputs |= {i["name"]: source(i["link"]) for i in node["inputs"] if i["link"] is not None}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt
