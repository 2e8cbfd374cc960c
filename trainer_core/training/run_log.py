"""What a run tells while it is trained: to its journal, to ComfyUI's log, and to whoever shows it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from ..model.memory import GIB, MemoryPlan
from .journal import Journal, read_journal
from .report import StepReport
from .validation import ValidationReport

log = logging.getLogger(__name__)

JOURNALED = (
    *("loss", "smoothed_loss", "learning_rate", "grad_norm", "skipped"),
    *("seconds_per_step", "seconds_left", "peak_bytes"),
)
"""What the journal keeps of a step's report."""


@dataclasses.dataclass(frozen=True)
class Listeners:
    """Whoever shows a run."""

    on_note: Callable[[str], None] = lambda note: None
    """Gets what the user should know."""
    on_event: Callable[[str, str], None] = lambda run, event: None
    """Gets the run's name and the kind of each line that its journal has gained."""


class RunLog:
    """Without `listeners` (a process that does not lead) nothing is told to anybody."""

    def __init__(self, listeners: Listeners | None = None) -> None:
        self.step = 0
        """Steps done."""
        self._listeners = listeners
        self._name = ""
        self._journal: Journal | None = None
        self._unwritten_notes: list[str] = []

    @property
    def is_open(self) -> bool:
        return self._journal is not None

    def open(self, folder: Path) -> None:
        """Write to the journal of this run from now on, to which its folder has to be there."""
        self._name = folder.name
        self._journal = self._journal or Journal(folder)

    def write_unwritten_notes(self) -> None:
        """Give the journal the notes from before it was open."""
        for text in self._unwritten_notes:
            self.record("note", text=text)
        self._unwritten_notes.clear()

    def write_missing_steps(self, folder: Path, losses: Sequence[float | None]) -> None:
        """Give the journal what a crash kept from it, as far as the checkpoint knows."""
        written = {event["step"] for event in read_journal(folder) if event["event"] == "step"}
        for step, loss in enumerate(losses, start=1):
            if step not in written:
                self.record("step", step=step, loss=loss, skipped=loss is None)

    def note(self, text: str) -> None:
        """Tell the user, ComfyUI's log and the journal; nothing when there are no words."""
        if not text or not self._listeners:
            return
        log.warning(text)
        self._listeners.on_note(text)
        if self._journal:
            self.record("note", text=text)
        else:
            self._unwritten_notes.append(text)

    def planned(self, plan: MemoryPlan) -> None:
        """How the run uses memory."""
        log.info("%s: %s", self._name, plan)
        self.record("memory", plan=str(plan), predicted_bytes=plan.predicted_bytes)

    def measured(self, plan: MemoryPlan, peak_bytes: int) -> None:
        """Compare what was predicted with what was allocated at the peak; 0: it is not counted on this device."""
        if peak_bytes:
            predicted = plan.allocated_bytes
            words = "%s: %.2f GiB were allocated beside the weights, %.2f of what was predicted"
            log.info(words, self._name, peak_bytes / GIB, peak_bytes / predicted)
            self.record("memory", allocated_bytes=peak_bytes, predicted_allocated_bytes=predicted)

    def step_done(self, report: StepReport) -> None:
        self.step = report.step
        values = dataclasses.asdict(report)
        self.record("step", **{key: values[key] for key in JOURNALED})

    def validated(self, report: ValidationReport, *, best: bool) -> None:
        self.record("validation", **dataclasses.asdict(report), best=best)

    def record(self, event: str, **values: object) -> None:
        """Add a line to the journal, of the step now done unless `values` says another."""
        if self._journal and self._listeners:
            self._journal.write(event, **{"step": self.step, **values})
            self._listeners.on_event(self._name, event)

    def sync(self) -> None:
        if self._journal:
            self._journal.sync()

    def close(self) -> None:
        if self._journal:
            self._journal.close()
        self._journal = None
