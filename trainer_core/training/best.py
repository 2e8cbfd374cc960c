"""The step at which the images held out did best, and its checkpoint, which stays."""

from __future__ import annotations

import math
from pathlib import Path

from .checkpoints import checkpoint_name, list_checkpoints
from .journal import read_journal


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

    def saved(self, step: int, checkpoint: Path) -> None:
        """There is a checkpoint of this step."""
        if step == self.step:
            self.checkpoint = checkpoint
