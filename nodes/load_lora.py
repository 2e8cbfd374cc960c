"""Node: apply a LoRA file of any known layout to an Ideogram 4 model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..trainer_core.errors import LoraUnreadable
from ..trainer_core.lora_files import read_lora
from ..trainer_core.model.apply import apply_lora, is_quantized
from ..trainer_core.paths import shown
from .feedback import show_text
from .values import as_choice, as_number

MODES = ["auto", "bypass", "merge"]
MAX_STRENGTH = 10.0


class Ideogram4LoadLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Ideogram4LoadLoRA",
            display_name="Ideogram 4 Load LoRA",
            category="model/training/ideogram 4",
            description="Apply an Ideogram 4 LoRA written by any trainer. Says how many layers matched, and refuses a "
            "file that does not fit.",
            search_aliases=["lora loader", "apply lora", "fal lora", "diffusers lora"],
            inputs=[
                io.Model.Input("model", tooltip="Ideogram 4 (the conditional model)."),
                io.Combo.Input(
                    "lora_name",
                    options=folder_paths.get_filename_list("loras"),
                    tooltip="comfy, fal, diffusers, kohya and other spellings are read. Newly trained files appear "
                    "after a refresh (R).",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-MAX_STRENGTH,
                    max=MAX_STRENGTH,
                    step=0.05,
                    round=False,
                    tooltip="1 is the strength it was trained at; 0 leaves the model as it is.",
                ),
                io.Combo.Input(
                    "mode",
                    options=MODES,
                    default="auto",
                    tooltip="bypass adds the LoRA while the model runs, exactly; merge adds it to the weights, which "
                    "rounds on fp8, nvfp4 and int8 models. auto bypasses on those and merges on bf16.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with the LoRA.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None, **_: object) -> list[object]:
        if lora_name is None:  # linked: what the link brings is part of the graph's own signature
            return []
        path = lora_path(lora_name)
        return [str(path), path.stat().st_size, path.stat().st_mtime_ns]

    @classmethod
    def execute(cls, model: Any, lora_name: str, strength: float, mode: str) -> io.NodeOutput:
        as_choice(mode, "mode", MODES)
        as_number(strength, "strength", -MAX_STRENGTH, MAX_STRENGTH)
        lora = read_lora(lora_path(lora_name))
        bypass = is_quantized(model) if mode == "auto" else mode == "bypass"
        applied = apply_lora(model, lora.modules, strength=strength, bypass=bypass, name=lora_name)
        count = len(lora.modules)
        show_text(
            cls, f"{count} of {count} modules matched ({lora.layout} keys), {'bypass' if bypass else 'merge'} mode."
        )
        return io.NodeOutput(applied)


def lora_path(name: str) -> Path:
    """The file behind a combo value, looked up again. Raises `LoraUnreadable`."""
    listed = isinstance(name, str) and name in folder_paths.get_filename_list("loras")
    path = folder_paths.get_full_path("loras", name) if listed else None
    if path is None:
        raise LoraUnreadable(
            f"There is no LoRA {shown(str(name))} in ComfyUI's lora folders. Press R to refresh the list and pick one "
            "of it."
        )
    return Path(path)
