"""Node: train."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
from comfy_api.latest import io

from ..trainer_core.config import TrainSettings
from ..trainer_core.errors import UserError
from ..trainer_core.lora_files import export_lora, read_lora
from ..trainer_core.model.encode import TrainingData
from ..trainer_core.training.journal import times_kept
from ..trainer_core.training.loop import train
from ..trainer_core.training.previews import PreviewSettings
from ..trainer_core.training.runs import RunPlace, find_run, list_runs
from .feedback import RunEvents, origin_of
from .load_lora import lora_path
from .save_lora import DEFAULT_FOLDER
from .types import PreviewsSocket, SettingsSocket, TrainedLoraModel, TrainingDataSocket
from .values import as_choice, as_text

NEW_RUN, REFUSE, CONTINUE, FRESH = "new run", "refuse", "continue anyway", "none"


class Ideogram4TrainLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Ideogram4TrainLoRA",
            display_name="Ideogram 4 Train LoRA",
            category="model/training/ideogram 4",
            description="Train a LoRA on the connected model, in place: its weights are neither copied nor changed.",
            search_aliases=["train lora", "fine-tune", "finetune ideogram", "lora trainer"],
            inputs=[
                io.Model.Input("model", tooltip="Ideogram 4 (bf16, fp8, nvfp4 or int8) from Load Diffusion Model."),
                TrainingDataSocket.Input("training_data", tooltip="From the encode node."),
                io.Int.Input(
                    "steps",
                    default=1000,
                    min=1,
                    max=40_000,
                    tooltip="Optimiser steps. 500 to 3000 is usual: fewer for a style, more for many different images.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=1e-4,
                    min=1e-6,
                    max=1e-2,
                    step=1e-6,
                    round=False,
                    tooltip="5e-5 to 1e-4 is usual. Too high shows as noise or burnt images, too low as no effect.",
                ),
                io.Int.Input(
                    "rank",
                    default=32,
                    min=1,
                    max=512,
                    tooltip="Capacity of the LoRA. 16 to 32 is usual; alpha always equals it, so strength 1 is what "
                    "was trained.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=False,
                    tooltip="The same seed, data and settings give the same LoRA.",
                ),
                SettingsSocket.Input(
                    "settings", optional=True, tooltip="From Ideogram 4 Train Settings; defaults without it."
                ),
                io.Combo.Input(
                    "resume",
                    options=[NEW_RUN, *list_runs(runs_folder())],
                    default=NEW_RUN,
                    optional=True,
                    tooltip="Continue a run from its newest checkpoint: after a cancel, an error or a crash, or to "
                    "more steps than it had. Keep data and settings as they were. Newest first; R shows new ones.",
                ),
                io.Combo.Input(
                    "if_changed",
                    options=[REFUSE, CONTINUE],
                    default=REFUSE,
                    optional=True,
                    advanced=True,
                    tooltip="When data or settings differ from those of the run that is resumed: stop with a list of "
                    "the differences, or train on with the new values.",
                ),
                io.Combo.Input(
                    "start_from_lora",
                    options=[FRESH, *folder_paths.get_filename_list("loras")],
                    default=FRESH,
                    optional=True,
                    advanced=True,
                    tooltip="A new run begins with the weights of this LoRA, from any trainer. Its rank may be lower "
                    "than the one above, not higher.",
                ),
                io.String.Input(
                    "run_name",
                    default=RunPlace.name,
                    optional=True,
                    advanced=True,
                    tooltip="Name of a new run; a number is added. Its checkpoints go to output/ideogram4_runs.",
                ),
                PreviewsSocket.Input(
                    "previews",
                    optional=True,
                    tooltip="From Ideogram 4 Previews: pictures of the LoRA while it is trained.",
                ),
            ],
            outputs=[
                io.LoraModel.Output(display_name="lora", tooltip="Connect to a save or load node, ours or core's."),
                io.LossMap.Output(display_name="loss_map", tooltip="The loss of every step, for Plot Loss Graph."),
                io.Int.Output(display_name="steps", tooltip="Steps trained."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, resume: str | None = NEW_RUN, start_from_lora: str | None = FRESH) -> bool | str:
        # Naming the combos lifts the check against their lists, for a message that says more. A linked one is None.
        # ComfyUI shows the message under each of the two, so it begins with the one that is meant.
        try:
            if isinstance(resume, str) and resume != NEW_RUN:
                find_run(runs_folder(), resume)
            elif isinstance(start_from_lora, str) and start_from_lora != FRESH and resume is not None:
                lora_path(start_from_lora)
        except UserError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, resume: str | None = NEW_RUN, **_: object) -> int:
        # A run that was stopped and kept has a result that ComfyUI would hand out again; whoever resumes it wants more.
        if not isinstance(resume, str) or resume == NEW_RUN:
            return 0
        return times_kept(find_run(runs_folder(), resume))

    @classmethod
    def execute(
        cls,
        model: Any,
        training_data: TrainingData,
        steps: int,
        learning_rate: float,
        rank: int,
        seed: int,
        settings: Mapping[str, Any] | None = None,
        resume: str = NEW_RUN,
        if_changed: str = REFUSE,
        start_from_lora: str = FRESH,
        run_name: str = RunPlace.name,
        previews: PreviewSettings | None = None,
    ) -> io.NodeOutput:
        run = TrainSettings.from_mapping(
            {**(settings or {}), "steps": steps, "learning_rate": learning_rate, "rank": rank, "seed": seed}
        )
        bar = comfy.utils.ProgressBar(steps)
        place, news = run_place(resume, if_changed, start_from_lora, run_name), RunEvents(cls)
        # What a run does is told by its journal, which the page shows on the node.
        trained = train(
            model,
            training_data,
            run,
            dataclasses.replace(place, origin=origin_of(cls)),
            previews=previews,
            on_step=lambda report: bar.update_absolute(report.step),
            on_note=news.note,
            on_event=news,
        )
        lora = TrainedLoraModel(export_lora(trained.modules, "comfy"), trained.record)
        return io.NodeOutput(lora, {"loss": trained.losses}, trained.record.trained_steps)


def runs_folder() -> Path:
    """Where runs are kept. Not below loras/, whose loaders would list their files."""
    return Path(folder_paths.get_output_directory()) / "ideogram4_runs"


def run_place(resume: str, if_changed: str, start_from_lora: str, run_name: str) -> RunPlace:
    """What the four inputs mean. Raises `LoraUnreadable`, `LoraMismatch` and `SettingsError`."""
    as_choice(if_changed, "if_changed", (REFUSE, CONTINUE))
    if as_text(resume, "resume") != NEW_RUN:
        find_run(runs_folder(), resume)
    as_text(start_from_lora, "start_from_lora")
    start, start_file = {}, ""
    if start_from_lora != FRESH and resume == NEW_RUN:
        start_file = os.path.abspath(lora_path(start_from_lora))
        start = read_lora(Path(start_file)).modules
    return RunPlace(
        runs_folder=runs_folder(),
        loras_folder=Path(folder_paths.get_output_directory()) / DEFAULT_FOLDER,
        name=as_text(run_name, "run_name").strip() or RunPlace.name,
        resume="" if resume == NEW_RUN else resume,
        continue_anyway=if_changed == CONTINUE,
        start_modules=start,
        start_lora="" if start_from_lora == FRESH else start_from_lora,
        start_lora_file=start_file,
    )
