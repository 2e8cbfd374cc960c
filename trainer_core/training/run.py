"""A run on disk: its folder, its checkpoints and its journal.

    <runs folder>/ideogram4_00001/
        step_000000/  step_000500/  step_001000/      see checkpoints.py; only the newest few stay
        journal.jsonl                                 see journal.py

A run folder appears together with its first checkpoint, so every run that can be seen can be gone on with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..errors import CheckpointUnreadable, RunNotFound, SaveFailed, UserError
from ..lora_files import LoraWeights, build_metadata, save_lora
from ..model.adapters import Adapters
from ..model.encode import TrainingData
from ..paths import NameRejected, resolve_inside, shown, storable_parts
from ..storage import place_new_folder, remove_leftovers
from .checkpoints import (
    Checkpoint,
    checkpoint_files,
    checkpoint_name,
    delete_old_checkpoints,
    list_checkpoints,
    newest_checkpoint,
    read_state_json,
    write_checkpoint,
)
from .facts import RunFacts, require_same, what_changed
from .journal import Journal
from .record import training_record
from .report import StepReport
from .state import RunState, capture, restore

log = logging.getLogger(__name__)

INTERVAL_S = 600.0
"""Longest time between two checkpoints when no number of steps is set."""
JOURNALED = ("loss", "smoothed_loss", "learning_rate", "grad_norm", "skipped", "seconds_per_step")
"""What the journal keeps of a step's report."""
_TWINS_LOOKED_AT = 5
RETRY_S = 60.0
"""Time until the next attempt after a checkpoint could not be written."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunPlace:
    """Where a run is kept and what it begins with."""

    runs_folder: Path
    loras_folder: Path
    """Gets the LoRA of a run that ends early."""
    name: str = "ideogram4"
    """Of a new run; a number is added."""
    resume: str = ""
    """Name of the run to go on with, "" for a new one."""
    continue_anyway: bool = False
    """Go on although data, settings or model have changed."""
    start_modules: dict[str, LoraWeights] = dataclasses.field(default_factory=dict)
    """A LoRA that a new run begins with, by module path."""
    start_lora: str = ""
    """Name of its file."""


def list_runs(runs_folder: Path) -> list[str]:
    """Names of the runs that can be gone on with, the one that was saved last first."""
    runs = [path for path in runs_folder.iterdir() if list_checkpoints(path)] if runs_folder.is_dir() else []
    return [path.name for path in sorted(runs, key=lambda path: path.stat().st_mtime, reverse=True)]


def find_run(runs_folder: Path, name: str) -> Path:
    """The folder of a run. Raises `RunNotFound` or `PathOutsideRoot`."""
    folder = resolve_inside(runs_folder, name)
    if folder.parent != resolve_inside(runs_folder, "") or not list_checkpoints(folder):
        known = list_runs(runs_folder)
        raise RunNotFound(
            f"There is no run {shown(name)} in the {runs_folder.name} folder. "
            + (f"Choose one of: {', '.join(known[:10])}." if known else "It holds none yet: start a new run.")
        )
    return folder


def _check_name(name: str) -> None:
    if storable_parts(name) != (name,):
        raise NameRejected(
            f"{shown(name)} cannot name a run: it leads into another folder. Use a name without slashes."
        )


class Run:
    """The run that is being trained. Holds no tensors of the device."""

    def __init__(self, place: RunPlace, facts: RunFacts, data: TrainingData, *, on_note: Callable[[str], None]) -> None:
        """Raises `RunNotFound`, `CheckpointUnreadable`, `RunChanged` and `NameRejected`; a new run leaves nothing on
        disk yet."""
        self.place = place
        self.facts = facts
        self.folder: Path | None = None
        self._data = data
        self._on_note = on_note
        self._journal: Journal | None = None
        self._checkpoint: Checkpoint | None = None
        self._changes: list[str] = []
        self._step = 0
        self._saved_step = -1
        self._saved: Path | None = None
        self._save_at_s = 0.0
        if place.resume:
            self._open()
        else:
            _check_name(place.name)
            if twin := self._unfinished_twin():
                self.note(twin)

    def _open(self) -> None:
        folder = find_run(self.place.runs_folder, self.place.resume)
        remove_leftovers(folder, min_age_s=0)
        self._checkpoint = self._newest(folder)
        before = RunFacts.from_json(self._checkpoint.facts)
        step = self._checkpoint.state.step
        changes = what_changed(before, self.facts, step=step)
        require_same(folder.name, changes, step=step, continue_anyway=self.place.continue_anyway)
        self._changes = changes.all
        self.facts = dataclasses.replace(self.facts, start_lora=before.start_lora)
        self.folder = folder

    def _unfinished_twin(self) -> str:
        """Words about a run of the same data and settings that was not finished, "" if there is none."""
        for name in list_runs(self.place.runs_folder)[:_TWINS_LOOKED_AT]:
            with contextlib.suppress(CheckpointUnreadable, OSError, IndexError):
                written = read_state_json(list_checkpoints(self.place.runs_folder / name)[0])
                before, step = RunFacts.from_json(written["facts"]), written["step"]
                changes = what_changed(before, self.facts, step=step)
                same = not changes.forbidden + changes.questionable and before.start_lora == self.facts.start_lora
                if same and 0 < step < before.settings.steps:
                    return (
                        f"{name} has the same data and settings and stopped at step {step}. This is a new run; to go "
                        f"on with that one instead, cancel and choose {name} under resume."
                    )
        return ""

    @property
    def name(self) -> str:
        return self.folder.name if self.folder else ""

    # ---- while it goes on ------------------------------------------------------------------------------------

    def begin(self, adapters: Adapters, optimizer: torch.optim.Optimizer) -> RunState:
        """Put the newest checkpoint into `adapters` and `optimizer`, or make them the first one of a new run.

        May be called again after the device ran out of memory. Raises `SaveFailed` and `CheckpointUnreadable`.
        """
        values_bytes = sum(4 * parameter.numel() for parameter in adapters.parameters().values())
        # Weights and two moments; a new checkpoint is written before an old one is deleted.
        self._check_free_disk((3 if self.folder else 6) * values_bytes)
        if self.folder is None:
            state = capture(adapters, optimizer, [], 0.0)
            self._saved = self._create(state)
            self.folder = self._saved.parent
            self._journal = Journal(self.folder)
            self._record("started", steps=self.facts.settings.steps, facts=self.facts.to_json())
        else:
            checkpoint = self._checkpoint or self._newest(self.folder)
            self._checkpoint = None
            state = checkpoint.state
            restore(state, adapters, optimizer, name=f"{self.name}/{checkpoint.name}")
            self._step = state.step
            self._journal = self._journal or Journal(self.folder)
            self._record("resumed", steps=self.facts.settings.steps, changes=self._changes, facts=self.facts.to_json())
        self._saved_step = state.step
        self._save_at_s = time.monotonic() + INTERVAL_S
        return state

    def step_done(self, report: StepReport) -> None:
        """Write a step to the journal."""
        self._step = report.step
        values = dataclasses.asdict(report)
        self._record("step", **{key: values[key] for key in JOURNALED})

    def due(self, step: int) -> bool:
        """Whether a checkpoint should be written after `step` steps."""
        every = self.facts.settings.checkpoint_every
        return step % every == 0 if every else time.monotonic() >= self._save_at_s

    def save(self, state: Callable[[], RunState]) -> None:
        """Write a checkpoint, unless there is one of this step. A disk that refuses is told, and tried again later.

        Raises what `state` raises.
        """
        now = state()
        if self.folder is None or now.step == self._saved_step:
            return
        try:
            path = self._write(self.folder, now)
        except SaveFailed as error:
            self._save_at_s = time.monotonic() + RETRY_S
            self.note(f"{error} Training goes on; the newest checkpoint is that of step {self._saved_step}.")
            return
        self._saved, self._saved_step = path, now.step
        self._save_at_s = time.monotonic() + INTERVAL_S
        self._record("checkpoint", step=now.step, name=path.name)
        if self._journal:
            self._journal.sync()
        delete_old_checkpoints(self.folder, keep=self.facts.settings.keep_checkpoints, spare=path)

    def save_last(self, state: Callable[[], RunState]) -> None:
        """`save` on the way out of an exception, which nothing that happens here may hide."""
        try:
            self.save(state)
        except Exception:
            # Boundary with a device and a disk that may be gone: what was saved before is still there.
            log.warning("The steps since the last checkpoint could not be saved.", exc_info=True)

    def note(self, text: str) -> None:
        """Tell the user, the log and the journal."""
        if text:
            log.warning(text)
            self._on_note(text)
            self._record("note", text=text)

    def close(self) -> None:
        if self._journal:
            self._journal.close()

    # ---- when it ends ----------------------------------------------------------------------------------------

    def finished(self) -> None:
        """Write the end to the journal."""
        self._record("finished")
        if self._journal:
            self._journal.sync()

    def stopped(self, reason: str) -> str:
        """Save the LoRA of the newest checkpoint, and say in words what is there and how to go on.

        "" when the run had not begun.
        """
        if self.folder is None or self._journal is None:
            return ""
        try:
            state = self._newest(self.folder).state
        except (CheckpointUnreadable, OSError) as error:
            return str(error)
        lora, words = self._save_partial_lora(state) if state.step else ("", "No step was finished.")
        message = (
            f"Stopped at step {state.step} of {self.facts.settings.steps}. {words} "
            f"To go on from there, choose {self.name} under resume and run again."
        )
        self._record("stopped", step=state.step, reason=reason, message=message, lora=lora)
        self._journal.sync()
        return message

    def _save_partial_lora(self, state: RunState) -> tuple[str, str]:
        """File name and words for the user."""
        stem = f"{self.name}_{checkpoint_name(state.step)}"
        folder = self.place.loras_folder
        metadata = build_metadata(training_record(self.facts, self._data, state.losses), title=stem)
        try:
            name = save_lora(state.adapter, folder=folder, stem=stem, layout="comfy", metadata=metadata).name
        except UserError as error:
            return "", f"Its LoRA could not be written: {error}"
        return name, f"The LoRA so far is {folder.name}/{name}."

    # ---- disk ------------------------------------------------------------------------------------------------

    def _create(self, state: RunState) -> Path:
        folder = self.place.runs_folder
        taken = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        number = 1
        while f"{self.place.name}_{number:05}" in taken:
            number += 1
        files = checkpoint_files(state, self.facts.to_json())
        first = {f"{checkpoint_name(state.step)}/{name}": pieces for name, pieces in files.items()}
        return place_new_folder(folder, f"{self.place.name}_{number:05}", first) / checkpoint_name(state.step)

    def _write(self, folder: Path, state: RunState) -> Path:
        try:
            return write_checkpoint(folder, state, self.facts.to_json())
        except SaveFailed:
            # Perhaps room is all that is missing: all checkpoints but the newest give theirs up, once.
            delete_old_checkpoints(folder, keep=1, spare=self._saved)
            return write_checkpoint(folder, state, self.facts.to_json())

    def _newest(self, folder: Path) -> Checkpoint:
        checkpoint, passed_over = newest_checkpoint(folder)
        for reason in passed_over:
            self.note(reason)
        if checkpoint is None:
            raise CheckpointUnreadable(f"No checkpoint of {folder.name} can be used. Start a new run.")
        self._saved = folder / checkpoint.name
        return checkpoint

    def _check_free_disk(self, needed_bytes: int) -> None:
        folder = self.place.runs_folder
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < needed_bytes:
            raise SaveFailed(
                f"The checkpoints of this run need {needed_bytes:,} bytes in {folder}, {free:,} are free. "
                "Make room, or train with a lower rank."
            )

    def _record(self, event: str, **values: object) -> None:
        if self._journal:
            self._journal.write(event, **{"step": self._step, **values})
