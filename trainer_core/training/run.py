"""The run that is being trained, on disk: its checkpoints, its journal, and what is said about them.

    <runs folder>/ideogram4_00001/
        step_000000/  step_000500/  step_001000/      see checkpoints.py; only the newest few stay
        journal.jsonl                                 see journal.py
        run.json                                      see run_file.py

A run folder appears together with its first checkpoint, so every run that can be seen can be gone on with.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..errors import CheckpointUnreadable, SaveFailed, UserError
from ..model import host
from ..model.adapters import Adapters
from ..model.encode import TrainingData
from ..model.memory import GIB, MemoryPlan
from ..storage import remove_folder, remove_leftovers, require_room
from .checkpoints import (
    Checkpoint,
    checkpoint_name,
    delete_old_checkpoints,
    list_checkpoints,
    newest_checkpoint,
    write_making_room,
)
from .facts import RunFacts, require_same, what_changed
from .history import LossHistory
from .journal import Journal, read_journal
from .lock import RunLock
from .partial_lora import save_partial_lora
from .report import StepReport
from .run_file import RunFile, write_run_file
from .runs import RunPlace, check_name, create_run, find_run, sweep, unfinished_twin
from .state import RunState, capture, restore
from .words import remedy, resume_words, stop_words

log = logging.getLogger(__name__)

INTERVAL_S = 600.0
"""Longest time between two checkpoints when no number of steps is set."""
RETRY_S = 60.0
"""Time until the next attempt after a checkpoint could not be written."""
JOURNALED = ("loss", "smoothed_loss", "learning_rate", "grad_norm", "skipped", "seconds_per_step")
"""What the journal keeps of a step's report."""


class Run:
    """The run that is being trained. Holds no tensors of the device."""

    def __init__(
        self,
        place: RunPlace,
        facts: RunFacts,
        data: TrainingData,
        *,
        run_file: RunFile | None,
        checkpoint_bytes: int,
        on_note: Callable[[str], None],
    ) -> None:
        """Raises `RunNotFound`, `CheckpointUnreadable`, `RunChanged`, `RunInUse`, `NameRejected`, and `SaveFailed` when
        there is no room for `checkpoint_bytes` or the folder cannot be written to.

        A new run leaves nothing on disk yet.
        """
        self.place = place
        self.facts = facts
        self.folder: Path | None = None
        self._data = data
        self._run_file = run_file
        self._on_note = on_note
        self._journal: Journal | None = None
        self._unwritten_notes: list[str] = []
        self._checkpoint: Checkpoint | None = None
        self._changes: list[str] = []
        self._forgiven = 0
        self._lock: RunLock | None = None
        self._step = 0
        self._saved: Path | None = None
        self._saved_step = -1
        self._save_at_s = 0.0
        self._refusal: SaveFailed | None = None
        """Why the newest checkpoint that was due is not there."""
        # No file of a checkpoint is larger than this; the rest is for headers.
        self._max_bytes = checkpoint_bytes + 2**26
        if place.resume:
            try:
                self._open(checkpoint_bytes)
            except BaseException:
                # Whoever keeps the exception keeps this object too; the lock must not live as long.
                self.close()
                raise
        else:
            check_name(place.name)
            # A new checkpoint is written before an old one is deleted.
            require_room(place.runs_folder, 2 * checkpoint_bytes, "The checkpoints of this run")
            sweep(place.runs_folder)
            self.note(unfinished_twin(place.runs_folder, facts))

    def _open(self, checkpoint_bytes: int) -> None:
        folder = find_run(self.place.runs_folder, self.place.resume)
        self._lock = RunLock(folder)
        if self._lock.held:
            remove_leftovers(folder, min_age_s=0)
        self.folder = folder
        self._checkpoint = checkpoint = self._newest(folder)
        before, step = checkpoint.facts, checkpoint.state.step
        changes = what_changed(before, self.facts, step=step)
        if step < self.facts.settings.steps:
            require_room(folder, checkpoint_bytes, "The next checkpoint of this run")
        self._changes = changes.all
        self._step = self._saved_step = step
        if changes.questionable:
            # Advice was followed, a lower learning rate say: what was skipped before counts no more.
            self._forgiven = checkpoint.state.losses.count(None)
        chosen = self.place.start_lora
        unused = "" if chosen == before.start_lora else chosen
        self.note(resume_words(folder.name, step, self.facts.settings.steps, self._changes, unused))
        self.facts = dataclasses.replace(self.facts, start_lora=before.start_lora)

    def _judge(self, before: RunFacts, step: int) -> None:
        """Raise `RunChanged` when a checkpoint must not, or should not, be gone on with."""
        changes = what_changed(before, self.facts, step=step)
        require_same(self.name, changes, step=step, continue_anyway=self.place.continue_anyway)

    @property
    def saved_step(self) -> int:
        """Step of the newest checkpoint; -1 before there is one."""
        return self._saved_step

    @property
    def name(self) -> str:
        """Of its folder; "" before there is one."""
        return self.folder.name if self.folder else ""

    # ---- while it goes on ------------------------------------------------------------------------------------

    def begin(self, adapters: Adapters, optimizer: torch.optim.Optimizer) -> tuple[LossHistory, float]:
        """Put the newest checkpoint into `adapters` and `optimizer`, or make them the first one of a new run.

        Returns the losses of the steps done, and the seconds spent in them. May be called again after the device ran
        out of memory. Raises `SaveFailed`, `CheckpointUnreadable` and `RunInUse`.
        """
        if self.folder is None:
            state = capture(adapters, optimizer, LossHistory(), 0.0)
            self._saved = create_run(self.place, state, self.facts, self._run_file)
            self.folder = self._saved.parent
            self._lock = RunLock(self.folder)
            event = "started"
        else:
            checkpoint, self._checkpoint = self._checkpoint or self._newest(self.folder), None
            state = checkpoint.state
            restore(state, adapters, optimizer, name=f"{self.name}/{checkpoint.name}")
            self._write_run_file(self.folder)
            event = "resumed"
        history = LossHistory(state.losses, forgiven=max(state.forgiven, self._forgiven))
        self._step = self._saved_step = state.step
        self._save_at_s = time.monotonic() + INTERVAL_S
        self._journal = self._journal or Journal(self.folder)
        changes = {"changes": self._changes} if event == "resumed" else {}
        self._record(event, steps=self.facts.settings.steps, facts=self.facts.to_json(), **changes)
        self._write_missing_steps(self.folder, state.losses)
        for text in self._unwritten_notes:
            self._record("note", text=text)
        self._unwritten_notes.clear()
        return history, state.seconds

    def _write_missing_steps(self, folder: Path, losses: Sequence[float | None]) -> None:
        """Give the journal what a crash kept from it, as far as the checkpoint knows."""
        written = {event["step"] for event in read_journal(folder) if event["event"] == "step"}
        for step, loss in enumerate(losses, start=1):
            if step not in written:
                self._record("step", step=step, loss=loss, skipped=loss is None)

    def _write_run_file(self, folder: Path) -> None:
        try:
            write_run_file(folder, self._run_file)
        except SaveFailed as error:
            self.note(f"{error.reason} Training goes on; it is needed only to train without ComfyUI.")

    def planned(self, plan: MemoryPlan) -> None:
        """Tell the log and the journal how the run uses memory."""
        log.info("%s: %s", self.name, plan)
        self._record("memory", plan=str(plan), predicted_bytes=plan.predicted_bytes)

    def measured(self, plan: MemoryPlan, peak_bytes: int) -> None:
        """Compare what was predicted with what was allocated at the peak; 0: it is not counted on this device."""
        if peak_bytes:
            predicted = plan.allocated_bytes
            words = "%s: %.2f GiB were allocated beside the weights, %.2f of what was predicted"
            log.info(words, self.name, peak_bytes / GIB, peak_bytes / predicted)
            self._record("memory", allocated_bytes=peak_bytes, predicted_allocated_bytes=predicted)

    def step_done(self, report: StepReport) -> None:
        """Write a step to the journal."""
        self._step = report.step
        values = dataclasses.asdict(report)
        self._record("step", **{key: values[key] for key in JOURNALED})

    def due(self, step: int) -> bool:
        """Whether a checkpoint should be written after `step` steps."""
        every = self.facts.settings.checkpoint_every
        if every and not self._refusal:
            return step % every == 0
        return time.monotonic() >= self._save_at_s

    def save(self, state: Callable[[], RunState]) -> bool:
        """Write a checkpoint, unless there is one of this step. Where that is refused, it is tried again later.

        Returns whether the state is on disk. Raises what `state` raises, but for a lack of main memory.
        """
        if self.folder is None:
            return False
        if not self.folder.is_dir():
            self._write_anew(self.folder)
        self._sync()
        try:
            now = state()
            if now.step == self._saved_step:
                return True
            path = write_making_room(self.folder, now, self.facts, spare=self._saved)
        except SaveFailed as error:
            return self._refused(error)
        except (MemoryError, RuntimeError) as error:
            if not host.is_out_of_main_memory(error):
                raise
            return self._refused(SaveFailed("A checkpoint was not written, because main memory is full."))
        self._refusal = None
        self._saved, self._saved_step = path, now.step
        self._save_at_s = time.monotonic() + INTERVAL_S
        self._record("checkpoint", step=now.step, name=path.name)
        self._sync()
        delete_old_checkpoints(self.folder, keep=self.facts.settings.keep_checkpoints, spare=path)
        return True

    def _write_anew(self, folder: Path) -> None:
        """Somebody deleted the folder: lock and journal went with it, and no step is saved any more."""
        self.close()
        folder.mkdir(parents=True, exist_ok=True)
        self._lock, self._journal, self._saved_step = RunLock(folder), Journal(folder), -1
        self._write_run_file(folder)
        self._record("started", steps=self.facts.settings.steps, facts=self.facts.to_json())
        self.note(f"The folder of {self.name} was deleted while it was trained. It is written anew.")

    def _refused(self, error: SaveFailed) -> bool:
        self._refusal = error
        self._save_at_s = time.monotonic() + RETRY_S
        return False

    def _why(self) -> str:
        return self._refusal.reason if self._refusal else ""

    def save_or_go_on(self, state: Callable[[], RunState]) -> None:
        """`save` in the middle of a run, which a full disk does not end."""
        if not self.save(state):
            self.note(f"{self._why()} Training goes on; the newest checkpoint is that of step {self._saved_step}.")

    def save_on_the_way_out(self, state: Callable[[], RunState]) -> None:
        """`save` because of an exception, which nothing that happens here may hide. `stopped` says how it went."""
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
            if self._journal:
                self._record("note", text=text)
            else:
                self._unwritten_notes.append(text)

    def close(self) -> None:
        """Let go of the files."""
        if self._journal:
            self._journal.close()
        if self._lock:
            self._lock.close()

    # ---- when it ends ----------------------------------------------------------------------------------------

    def finish(self, state: Callable[[], RunState]) -> None:
        """Write the last checkpoint. A disk that refuses it does not take the trained LoRA away."""
        if self.save(state):
            self._record("finished")
            self._sync()
        else:
            self.note(
                f"Training is complete, but its end is not on disk. {self._why()} Make room and press Run again before "
                "ComfyUI is closed: the trained LoRA is still in its memory, and nothing is trained twice."
            )

    def stopped(self, reason: str) -> str:
        """Save the LoRA of the newest checkpoint, and say in words what is there and how to go on.

        "" when there is none. Raises nothing: it is called because of another error.
        """
        if self.folder is None:
            return ""
        if self._journal is None:
            return f"{self.name} is as it was, at step {self._saved_step}."
        try:
            return self._stopped(self.folder, reason)
        except Exception as error:
            # Boundary with a disk that may be gone: the error that stopped the run must not be hidden by this one.
            log.warning("What is left of the run could not be looked at.", exc_info=True)
            return str(error) if isinstance(error, UserError) else ""

    def _stopped(self, folder: Path, reason: str) -> str:
        if not self.place.resume and self._step == 0 and [p.name for p in list_checkpoints(folder)] == ["step_000000"]:
            self.close()
            remove_folder(folder)
            return "Stopped before the first step was done, so there is nothing to keep."
        state = self._newest(folder).state
        lora, lora_words = "", ""
        if state.step:
            stem = f"{self.name}_{checkpoint_name(state.step)}"
            lora, lora_words = save_partial_lora(state, self.facts, self._data, self.place.loras_folder, stem)
        refusal = self._why()
        if state.step < self._saved_step:
            refusal = "The newest checkpoint cannot be read at the moment."
        stopped = stop_words(self._step, state.step, self.facts.settings.steps, refusal)
        message = " ".join(part for part in (stopped, lora_words, remedy(reason, self.name)) if part)
        self._record("stopped", step=state.step, reason=reason, message=message, lora=lora)
        self._sync()
        return message

    # ---- disk ------------------------------------------------------------------------------------------------

    def _newest(self, folder: Path) -> Checkpoint:
        checkpoint, passed_over = newest_checkpoint(folder, max_bytes=self._max_bytes, judge=self._judge)
        if checkpoint is None:
            reason = passed_over[0] if passed_over else "It has none."
            raise CheckpointUnreadable(
                f"No checkpoint of {folder.name} can be used. {reason} Start a new run; a LoRA of this one in "
                f"{self.place.loras_folder.name} can be chosen under start_from_lora."
            )
        for reason in passed_over:
            self.note(f"{reason} {checkpoint.name} is used instead.")
        self._saved = folder / checkpoint.name
        return checkpoint

    def _record(self, event: str, **values: object) -> None:
        if self._journal:
            self._journal.write(event, **{"step": self._step, **values})

    def _sync(self) -> None:
        if self._journal:
            self._journal.sync()
