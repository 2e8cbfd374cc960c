"""The step at which the images held out did best, and its checkpoint, which stays."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

from .checkpoints import checkpoint_name, list_checkpoints, read_checkpoint
from .journal import read_journal
from .state import RunState
from .words import best_words

log = logging.getLogger(__name__)


class Best:
    """The lowest validation loss so far."""

    def __init__(self) -> None:
        self.step = -1
        """-1 before anything was measured."""
        self.loss = math.inf
        self.checkpoint: Path | None = None
        """Of the best step that has one: of `step`, or of the best before it until that of `step` is written."""

    @classmethod
    def of_journal(cls, run_folder: Path, step: int) -> Best:
        """As it was after `step` steps of a run."""
        best = cls()
        for event in read_journal(run_folder):
            loss = event.get("loss")
            if event["event"] == "resumed" and event.get("comparable") is False:
                best = cls()
            elif event["event"] == "validation" and event["step"] <= step and isinstance(loss, float):
                best.offer(event["step"], loss)
        folder = run_folder / checkpoint_name(best.step)
        best.checkpoint = folder if folder in list_checkpoints(run_folder) else None
        return best

    def offer(self, step: int, loss: float) -> bool:
        """Whether this measurement is the best so far; then it is remembered."""
        if not loss < self.loss:
            return False
        self.step, self.loss = step, loss
        return True

    def words(self, last_step: int, max_bytes: int, save_lora: Callable[[RunState], tuple[str, str]]) -> str:
        """At the end of a run: which step did best, and where its LoRA is, which is saved if it is not the last.

        save_lora: writes the LoRA of a state, and returns its file's name and words about it.
        """
        if self.step <= 0 or self.step == last_step:
            return best_words(self.step, "")
        if not self.checkpoint or self.checkpoint.name != checkpoint_name(self.step):
            return best_words(self.step, "Its checkpoint was not saved.")
        try:
            return best_words(self.step, save_lora(read_checkpoint(self.checkpoint, max_bytes=max_bytes).state)[1])
        except Exception as error:
            # Boundary with a disk and with main memory: the run is complete, and its LoRA must reach its user.
            log.warning("The LoRA of the best step was not saved.", exc_info=True)
            return best_words(self.step, f"Its LoRA was not saved: {error}")

    def saved(self, step: int, checkpoint: Path) -> None:
        """There is a checkpoint of this step."""
        if step == self.step:
            self.checkpoint = checkpoint
