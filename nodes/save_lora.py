"""Node: write a LoRA in the keys that ComfyUI, fal or diffusers expect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io

from ..trainer_core.lora_files import build_metadata, config_json, parse_lora, save_config, save_lora
from ..trainer_core.paths import resolve_inside
from .feedback import show_text
from .types import TrainedLoraModel

DEFAULT_NAME = "ideogram4"
FORMATS = {"comfy": ("comfy",), "fal": ("fal",), "diffusers": ("diffusers",), "comfy + fal": ("comfy", "fal")}


class Ideogram4SaveLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Ideogram4SaveLoRA",
            display_name="Ideogram 4 Save LoRA",
            category="model/training/ideogram 4",
            description="Save a trained LoRA, never overwriting anything, with a config.json beside it.",
            search_aliases=["export lora", "save fal lora", "diffusers lora"],
            is_output_node=True,
            inputs=[
                io.LoraModel.Input("lora", tooltip="From Ideogram 4 Train LoRA."),
                io.String.Input(
                    "filename_prefix",
                    default=f"loras/{DEFAULT_NAME}",
                    tooltip="Folder and start of the name, under ComfyUI's output folder. What is in loras/ appears "
                    "in every LoRA loader's list after a refresh.",
                ),
                io.Combo.Input(
                    "output_lora_format",
                    options=list(FORMATS),
                    default="comfy + fal",
                    tooltip="comfy loads in ComfyUI and in diffusers; fal loads at fal and in diffusers; diffusers "
                    "has split q, k and v for loaders that know no fused layer.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="saved", tooltip="The files written, one a line, relative to the output folder."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, lora: dict[str, torch.Tensor], filename_prefix: str, output_lora_format: str) -> io.NodeOutput:
        output = Path(folder_paths.get_output_directory())
        # Expands %year% and the like; its counter is for images.
        folder, name, *_ = folder_paths.get_save_image_path(checked_prefix(output, filename_prefix), str(output))
        stem = unused_stem(Path(folder), name)

        modules = parse_lora(lora, name="The connected LoRA").modules
        record = lora.record if isinstance(lora, TrainedLoraModel) else None
        metadata = build_metadata(record, title=stem) if record else {"format": "pt", "modelspec.title": stem}
        files = {
            layout: save_lora(
                modules,
                folder=Path(folder),
                stem=stem if layout == "comfy" else f"{stem}_{layout}",
                layout=layout,
                metadata=metadata,
            )
            for layout in FORMATS[output_lora_format]
        }
        written = list(files.values())
        if record:
            config = config_json(record, output_lora_format=output_lora_format, files=files)
            written.append(save_config(config, folder=Path(folder), stem=f"{stem}_config"))

        text = "\n".join(path.relative_to(output).as_posix() for path in written)
        show_text(cls, text)
        return io.NodeOutput(text, ui={"files": [_ui_file(path, output) for path in written]})


def checked_prefix(output: Path, prefix: str) -> str:
    """The prefix with a file name at its end. Raises `PathOutsideRoot` when it leaves the output folder."""
    resolve_inside(output, prefix)
    folder, _, name = prefix.replace("\\", "/").rpartition("/")
    return f"{folder}/{name.strip() or DEFAULT_NAME}" if folder else name.strip() or f"loras/{DEFAULT_NAME}"


def unused_stem(folder: Path, name: str) -> str:
    """`name_00001` with the first number that no file in the folder starts with."""
    taken = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    number = 1
    while any(existing.startswith(f"{name}_{number:05}") for existing in taken):
        number += 1
    return f"{name}_{number:05}"


def _ui_file(path: Path, output: Path) -> dict[str, Any]:
    subfolder = path.parent.relative_to(output).as_posix()
    return {
        "filename": path.name,
        "subfolder": "" if subfolder == "." else subfolder,
        "type": "output",
        "bytes": path.stat().st_size,
    }
