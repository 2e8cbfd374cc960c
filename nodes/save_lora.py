"""Node: write a LoRA in the keys that ComfyUI, fal or diffusers expect."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io

from ..trainer_core.errors import UserError
from ..trainer_core.lora_files import build_metadata, config_json, parse_lora, save_config, save_lora
from ..trainer_core.paths import NameRejected, resolve_inside, shown, storable_parts
from .types import TrainedLoraModel
from .values import as_choice, as_text

DEFAULT_NAME = "ideogram4"
DEFAULT_FOLDER = "loras"
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
                    default=f"{DEFAULT_FOLDER}/{DEFAULT_NAME}",
                    tooltip="Folder and start of the name, under ComfyUI's output folder. What is in loras/ appears "
                    "in every LoRA loader's list after a refresh. %year%, %month%, %day%, %hour%, %minute% and "
                    "%second% are filled in.",
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
        )

    # Without validate_inputs: where one output node is refused, ComfyUI drops it and runs the others, here the loss
    # graph. The training would run, and end without a file or a word.

    @classmethod
    def execute(cls, lora: dict[str, torch.Tensor], filename_prefix: str, output_lora_format: str) -> io.NodeOutput:
        layouts = FORMATS[as_choice(output_lora_format, "output_lora_format", FORMATS)]
        output = output_folder()
        prefix = as_text(filename_prefix, "filename_prefix")
        try:
            folder, name = save_place(output, prefix)
        except UserError as error:
            raise type(error)(f"{error} Then run again: ComfyUI still has the trained LoRA.") from None
        stem = unused_stem(folder, name)

        modules = parse_lora(lora, name="The connected LoRA").modules
        record = lora.record if isinstance(lora, TrainedLoraModel) else None
        metadata = build_metadata(record, title=stem) if record else {"format": "pt", "modelspec.title": stem}
        files = {
            layout: save_lora(
                modules,
                folder=folder,
                stem=stem if layout == "comfy" else f"{stem}_{layout}",
                layout=layout,
                metadata=metadata,
            )
            for layout in layouts
        }
        written = list(files.values())
        if record:
            config = config_json(record, output_lora_format=output_lora_format, files=files)
            written.append(save_config(config, folder=folder, stem=f"{stem}_config"))

        text = "\n".join(path.relative_to(output).as_posix() for path in written)
        return io.NodeOutput(text, ui={"files": [_ui_file(path, output) for path in written]})


def output_folder() -> Path:
    return Path(os.path.realpath(folder_paths.get_output_directory()))


def save_place(output: Path, prefix: str) -> tuple[Path, str]:
    """The folder, inside `output`, and the start of the file names that a prefix asks for.

    Raises `PathOutsideRoot` when it leaves the output folder, and `NameRejected` for names that cannot be created.
    """
    prefix = fill_in_date(prefix)
    resolve_inside(output, prefix)
    parts = storable_parts(prefix)
    if not parts:
        parts = (DEFAULT_FOLDER, DEFAULT_NAME)
    elif prefix.endswith(("/", "\\")):
        parts = (*parts, DEFAULT_NAME)
    folder = resolve_inside(output, "/".join(parts[:-1]))
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if not existing.is_dir():
        raise NameRejected(
            f"{shown(prefix)} leads through {existing.name}, which is a file and not a folder. Use another folder."
        )
    return folder, parts[-1]


def fill_in_date(prefix: str) -> str:
    """`%year%` and the like as digits of the local time, as ComfyUI's own save nodes do."""
    now = time.localtime()
    codes = {"year": "%Y", "month": "%m", "day": "%d", "hour": "%H", "minute": "%M", "second": "%S"}
    for word, code in codes.items():
        prefix = prefix.replace(f"%{word}%", time.strftime(code, now))
    return prefix


def unused_stem(folder: Path, name: str) -> str:
    """`name_00001` with the first number that no file in the folder starts with."""
    taken: list[str] = []
    with contextlib.suppress(OSError):  # not there yet; or it cannot be read, and then saving will say so
        taken = os.listdir(folder)
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
