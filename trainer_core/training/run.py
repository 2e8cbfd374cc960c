"""The run that is being trained, on disk: its checkpoints, its journal, and what is said about them.

    <runs folder>/ideogram4_00001/
        step_000000/  step_000500/  step_001000/      see checkpoints.py; the newest few and the best one stay
        journal.jsonl                                 see journal.py
        run.json                                      see run_file.py
        previews/                                     see previews.py
        loss.csv  loss.png                            see loss_files.py

A run folder appears together with its first checkpoint, so every run that can be seen can be gone on with.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch

from ..errors import CheckpointUnreadable, SaveFailed, UserError
from ..model.adapters import Adapters
from ..model.encode import TrainingData
from ..storage import remove_folder, remove_leftovers, require_room
from .best import Best
from .checkpoints import Checkpoint, checkpoint_name, list_checkpoints, newest_checkpoint
from .facts import RunFacts, require_same, what_changed
from .history import LossHistory
from .journal import read_journal
from .lock import LOCK, RunLock
from .partial_lora import save_partial_lora
from .requests import take
from .run_file import RunFile, write_run_file
from .run_log import RunLog
from .runs import RunPlace, check_name, create_run, find_run, sweep, unfinished_twin
from .saves import Saves
from .state import RunState, capture, restore
from .validation import ValidationReport
from .words import kept_words, remedy, resume_words, stop_words, unsaved_words

log = logging.getLogger(__name__)


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
        log: RunLog,
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
        self.log = log
        self._checkpoint: Checkpoint | None = None
        self._changes: list[str] = []
        self._forgiven = 0
        self._lock: RunLock | None = None
        self._saves = Saves(facts.settings, log)
        self._seen: Counter[tuple[str, int]] = Counter()
        """What the journal holds of the step that training begins with."""
        self._comparable = True
        """Whether what was measured before a resume can be compared with what will be."""
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
            log.note(unfinished_twin(place.runs_folder, facts))

    def _open(self, checkpoint_bytes: int) -> None:
        folder = find_run(self.place.runs_folder, self.place.resume)
        self._lock = RunLock(folder)
        if self._lock.held:
            remove_leftovers(folder, min_age_s=0)
        take(folder)  # what was asked for when nobody was there to do it
        self.folder = folder
        self._checkpoint = checkpoint = self._newest(folder)
        before, step = checkpoint.facts, checkpoint.state.step
        changes = what_changed(before, self.facts, step=step)
        if step < self.facts.settings.steps:
            require_room(folder, checkpoint_bytes, "The next checkpoint of this run")
        self._changes = changes.all
        self.log.step = self._saves.step = step
        self._comparable = not changes.questionable
        if changes.questionable:
            # Advice was followed, a lower learning rate say: what was skipped before counts no more.
            self._forgiven = checkpoint.state.losses.count(None)
        chosen = self.place.start_lora
        unused = "" if chosen == before.start_lora else chosen
        self.log.note(resume_words(folder.name, step, self.facts.settings.steps, self._changes, unused))
        self.facts = dataclasses.replace(self.facts, start_lora=before.start_lora)

    def _judge(self, before: RunFacts, step: int) -> None:
        """Raise `RunChanged` when a checkpoint must not, or should not, be gone on with."""
        changes = what_changed(before, self.facts, step=step)
        require_same(self.name, changes, step=step, continue_anyway=self.place.continue_anyway)

    @property
    def saved_step(self) -> int:
        """Step of the newest checkpoint; -1 before there is one."""
        return self._saves.step

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
            self._saves.newest = create_run(self.place, state, self.facts, self._run_file)
            self.folder = self._saves.newest.parent
            self._lock = RunLock(self.folder)
            event = "started"
        else:
            checkpoint, self._checkpoint = self._checkpoint or self._newest(self.folder), None
            state = checkpoint.state
            restore(state, adapters, optimizer, name=f"{self.name}/{checkpoint.name}")
            self._write_run_file(self.folder)
            event = "resumed"
        history = LossHistory(state.losses, forgiven=max(state.forgiven, self._forgiven))
        self.log.step = state.step
        self._saves.begin(state.step)
        self.log.open(self.folder)
        resumed = {"changes": self._changes, "comparable": self._comparable} if event == "resumed" else {}
        self._record_start(event, **resumed)
        self.log.write_missing_steps(self.folder, state.losses)
        self.log.write_unwritten_notes()
        if event == "resumed" and self._comparable:
            self._saves.best = Best.of_journal(self.folder, state.step)
        seen = read_journal(self.folder)
        self._seen = Counter((line["event"], line["step"]) for line in seen if line["step"] == state.step)
        return history, state.seconds

    def _record_start(self, event: str, **values: object) -> None:
        about = {"steps": self.facts.settings.steps, "facts": self.facts.to_json(), "origin": dict(self.place.origin)}
        self.log.record(event, **about, **values)

    def _write_run_file(self, folder: Path) -> None:
        try:
            write_run_file(folder, self._run_file)
        except SaveFailed as error:
            self.log.note(f"{error.reason} Training goes on; it is needed only to train without ComfyUI.")

    def due(self, step: int) -> bool:
        """Whether a checkpoint should be written after `step` steps."""
        return self._saves.due(step) or not self._is_there()

    def _is_there(self) -> bool:
        """Whether the run still has its folder, and that is the one that it has locked."""
        return self.folder is None or (self.folder / (LOCK if self._lock and self._lock.held else "")).exists()

    def save(self, state: Callable[[], RunState]) -> bool:
        """Write a checkpoint; see `Saves.write`."""
        if self.folder is None:
            return False
        if not self._is_there():
            self._write_anew(self.folder, state().losses)
        return self._saves.write(self.folder, state, self.facts)

    def _write_anew(self, folder: Path, losses: Sequence[float | None]) -> None:
        """Somebody deleted the folder: lock and journal went with it, and no step is saved any more."""
        self.close()
        folder.mkdir(parents=True, exist_ok=True)
        self._lock, self._saves.step = RunLock(folder), -1
        self.log.open(folder)
        self._write_run_file(folder)
        self._record_start("started")
        self.log.write_missing_steps(folder, losses)
        self.log.note(f"The folder of {self.name} was deleted while it was trained. It is written anew.")

    def asked(self) -> set[str]:
        """What the user has asked for since the last call; see requests.py."""
        return take(self.folder) if self.folder else set()

    def answer(self, asked: Collection[str], **done: bool) -> None:
        """Tell whoever asked what has become of it."""
        for request in sorted(done.keys() & set(asked)):
            self.log.record("answered", request=request, done=done[request])

    def has(self, event: str, step: int) -> int:
        """How many of these events the run had of the step that training began with, before it was interrupted."""
        return self._seen[event, step]

    @property
    def checkpoint_bytes(self) -> int:
        """What the next checkpoint may need at most."""
        return self._max_bytes

    def validated(self, report: ValidationReport, state: Callable[[], RunState]) -> None:
        """Write a measurement to the journal, and a checkpoint if it is the best so far."""
        best = self._saves.offer_best(self.log.step, report.loss)
        self.log.validated(report, best=best)
        if best:
            self.save_or_go_on(state)

    def save_or_go_on(self, state: Callable[[], RunState], *, last: bool = False) -> bool:
        """`save` in the middle of a run, which a full disk does not end; after the `last` step `finish` tells of it."""
        saved = self.save(state)
        if not saved and not last:
            self.log.note(
                f"{self._saves.refusal} Training goes on; the newest checkpoint is that of step {self._saves.step}."
            )
        return saved

    def save_on_the_way_out(self, state: Callable[[], RunState]) -> None:
        """`save` because of an exception, which nothing that happens here may hide. `stopped` says how it went."""
        try:
            self.save(state)
        except Exception:
            # Boundary with a device and a disk that may be gone: what was saved before is still there.
            log.warning("The steps since the last checkpoint could not be saved.", exc_info=True)

    def close(self) -> None:
        """Let go of the files."""
        self.log.close()
        if self._lock:
            self._lock.close()

    # ---- when it ends ----------------------------------------------------------------------------------------

    def finish(self, state: Callable[[], RunState], *, early: bool) -> None:
        """Write the last checkpoint. A disk that refuses it does not take the trained LoRA away.

        early: the user wants what is trained so far; the run can still be gone on with.
        """
        saved, steps = self.save(state), self.facts.settings.steps
        if not saved:
            self.log.note(unsaved_words(self.log.step, steps, self._saves.refusal))
        best = self._saves.best
        self.log.note(
            best.words(self.log.step, self._max_bytes, lambda best: self._save_lora_of(best, called="Its LoRA"))
        )
        if early:
            words = kept_words(self.name, self.log.step, steps)
            self.log.record("stopped", reason="kept", message=words, lora="")
            self.log.note(words)
        elif saved:
            self.log.record("finished")
        self.log.sync()
        if self.folder:
            self._saves.write_loss_files(self.folder)

    def _save_lora_of(self, state: RunState, **words: str) -> tuple[str, str]:
        stem = f"{self.name}_{checkpoint_name(state.step)}"
        return save_partial_lora(state, self.facts, self._data, self.place.loras_folder, stem, **words)

    def stopped(self, reason: str) -> str:
        """Save the LoRA of the newest checkpoint, and say in words what is there and how to go on.

        "" when there is none. Raises nothing: it is called because of another error.
        """
        if self.folder is None:
            return ""
        if not self.log.is_open:
            return f"{self.name} is as it was, at step {self._saves.step}."
        try:
            return self._stopped(self.folder, reason)
        except Exception as error:
            # Boundary with a disk that may be gone: the error that stopped the run must not be hidden by this one.
            log.warning("What is left of the run could not be looked at.", exc_info=True)
            return str(error) if isinstance(error, UserError) else ""

    def _stopped(self, folder: Path, reason: str) -> str:
        nothing_done = not self.place.resume and self.log.step == 0
        if nothing_done and [path.name for path in list_checkpoints(folder)] == ["step_000000"]:
            self.close()
            remove_folder(folder)
            left = f" {folder.name} is in use and could not be deleted." if folder.exists() else ""
            return f"Stopped before the first step was done, so there is nothing to keep.{left}"
        state = self._newest(folder).state
        lora, lora_words = "", ""
        if state.step:
            lora, lora_words = self._save_lora_of(state)
        refusal = self._saves.refusal
        if state.step < self._saves.step:
            refusal = "The newest checkpoint cannot be read at the moment."
        stopped = stop_words(self.log.step, state.step, self.facts.settings.steps, refusal)
        message = " ".join(part for part in (stopped, lora_words, remedy(reason, self.name)) if part)
        self.log.record("stopped", step=state.step, reason=reason, message=message, lora=lora)
        self.log.sync()
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
            self.log.note(f"{reason} {checkpoint.name} is used instead.")
        self._saves.newest = folder / checkpoint.name
        return checkpoint
