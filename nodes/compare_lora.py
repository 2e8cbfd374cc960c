"""Node: the same pictures without and with a LoRA, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io, ui

from ..trainer_core.errors import SettingsError, UserError
from ..trainer_core.lora_files import read_lora
from ..trainer_core.training.compare import comparison, loras_of_run, parse_strengths, variants
from ..trainer_core.training.previews import PreviewSettings
from ..trainer_core.training.runs import find_run, list_runs
from .feedback import show_text
from .load_lora import MAX_STRENGTH, lora_path
from .train_lora import runs_folder
from .types import PreviewsSocket
from .values import as_text

NONE = "none"


class Ideogram4CompareLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Ideogram4CompareLoRA",
            display_name="Ideogram 4 Compare LoRA",
            category="model/training/ideogram 4",
            description="Make the same pictures with the base model and with LoRAs, at several strengths and at every "
            "saved step of a run, and put them into one labelled grid.",
            search_aliases=["xy plot", "lora strength test", "checkpoint comparison", "grid"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="Ideogram 4 from Load Diffusion Model, without the LoRA."),
                PreviewsSocket.Input("previews", tooltip="Prompts, size and seed, from Ideogram 4 Previews."),
                io.Combo.Input(
                    "lora_name",
                    options=[NONE, *folder_paths.get_filename_list("loras")],
                    default=NONE,
                    tooltip="A LoRA file of any trainer. Newly trained ones appear after a refresh (R).",
                ),
                io.Combo.Input(
                    "run",
                    options=[NONE, *list_runs(runs_folder())],
                    default=NONE,
                    tooltip="A run whose checkpoints are compared too: the newest few that it keeps, and the best.",
                ),
                io.String.Input(
                    "strengths",
                    default="0.5, 0.75, 1",
                    tooltip="Strengths of every LoRA, with commas between them. The base model is always shown.",
                ),
            ],
            outputs=[io.Image.Output(display_name="grid", tooltip="Prompts down, LoRAs and strengths across.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, lora_name: str | None = NONE, run: str | None = NONE) -> bool | str:
        # Naming the combos lifts the check against their lists, for files and runs of a moment ago.
        try:
            if isinstance(lora_name, str) and lora_name != NONE:
                lora_path(lora_name)
            elif isinstance(run, str) and run != NONE:
                find_run(runs_folder(), run)
        except UserError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None = NONE, run: str | None = NONE, **_: object) -> list[object]:
        paths = []
        if isinstance(lora_name, str) and lora_name != NONE:
            paths.append(lora_path(lora_name))
        if isinstance(run, str) and run != NONE:
            paths.append(find_run(runs_folder(), run))
        return [(str(path), path.stat().st_mtime_ns) for path in paths]

    @classmethod
    def execute(cls, model: Any, previews: PreviewSettings, lora_name: str, run: str, strengths: str) -> io.NodeOutput:
        numbers = parse_strengths(as_text(strengths, "strengths"), MAX_STRENGTH)
        loras = {}
        if as_text(lora_name, "lora_name") != NONE:
            loras[Path(lora_name).stem] = read_lora(lora_path(lora_name)).modules
        if as_text(run, "run") != NONE:
            loras |= loras_of_run(find_run(runs_folder(), run))
        if not loras:
            raise SettingsError("There is nothing to compare. Choose a LoRA under lora_name, or a run.")

        def progress(done: int, total: int, what: str) -> None:
            show_text(cls, f"picture {done + 1} of {total}: {what}")

        title = ", ".join(name for name in (lora_name, run) if name != NONE)
        settings = previews.pictures
        title += f": seed {settings.seed}, {settings.width}x{settings.height}, {settings.preset}"
        grid = comparison(model, settings, variants(loras, numbers), title=title, progress=progress)
        image = torch.from_numpy(grid.copy()).float().div_(255.0).unsqueeze(0)
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))
