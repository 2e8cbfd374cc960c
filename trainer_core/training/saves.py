"""When the checkpoints of a run are written, which of them stay, and why one that was due is not there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from ..config import TrainSettings
from ..errors import SaveFailed
from ..model import host
from .best import Best
from .checkpoints import delete_old_checkpoints, write_making_room
from .facts import RunFacts
from .loss_files import LOSS_PICTURE, write_loss_files
from .run_log import RunLog
from .state import RunState

log = logging.getLogger(__name__)

INTERVAL_S = 600.0
"""Longest time between two checkpoints when no number of steps is set."""
RETRY_S = 60.0
"""Time until the next attempt after a checkpoint could not be written."""
LOSS_FILES_INTERVAL_S = 60.0
"""Shortest time between two of loss.csv and loss.png while the run goes on."""


class Saves:
    """The checkpoints of the run that is being trained."""

    def __init__(self, settings: TrainSettings, log: RunLog) -> None:
        self._settings, self._log = settings, log
        self.newest: Path | None = None
        """Known to be whole."""
        self.step = -1
        """Of the newest; -1 before there is one."""
        self.best = Best()
        self._refusal: SaveFailed | None = None
        self._due_at_s = 0.0
        self._loss_files_at_s = 0.0

    def begin(self, step: int) -> None:
        """The newest checkpoint, of `step`, is what training begins with now."""
        self.step = step
        self._due_at_s = time.monotonic() + INTERVAL_S

    @property
    def refusal(self) -> str:
        """Why the newest checkpoint that was due is not there, "" if it is."""
        return self._refusal.reason if self._refusal else ""

    def due(self, step: int) -> bool:
        """Whether a checkpoint should be written after `step` steps."""
        every = self._settings.checkpoint_every
        if every and not self._refusal:
            return step % every == 0
        return time.monotonic() >= self._due_at_s

    def write(self, folder: Path, state: Callable[[], RunState], facts: RunFacts) -> bool:
        """Write a checkpoint, unless there is one of this step. Where that is refused, it is tried again later.

        Returns whether the state is on disk. Raises what `state` raises, but for a lack of main memory.
        """
        self._log.sync()
        try:
            now = state()
            if now.step == self.step:
                return True
            path = write_making_room(folder, now, facts, spare=self._spared(self.newest))
        except SaveFailed as error:
            return self._refused(error)
        except (MemoryError, RuntimeError) as error:
            if not host.is_out_of_main_memory(error):
                raise
            return self._refused(SaveFailed("A checkpoint was not written, because main memory is full."))
        self._refusal = None
        self.newest = path
        self.begin(now.step)
        self._log.record("checkpoint", step=now.step, name=path.name)
        self._log.sync()
        self.best.saved(now.step, path)
        delete_old_checkpoints(folder, keep=self._settings.keep_checkpoints, spare=self._spared(path))
        self.write_loss_files(folder, pause_s=LOSS_FILES_INTERVAL_S)
        return True

    def offer_best(self, step: int, loss: float) -> bool:
        """Whether a measurement is the best so far. Its checkpoint then stays, as soon as there is one."""
        better = self.best.offer(step, loss)
        if self.newest:
            self.best.saved(self.step, self.newest)
        return better

    def write_loss_files(self, folder: Path, *, pause_s: float = 0.0) -> None:
        """The loss for whoever does not watch."""
        now = time.monotonic()
        if pause_s and now < self._loss_files_at_s:
            return
        self._loss_files_at_s = now + pause_s
        try:
            write_loss_files(folder)
        except Exception:
            # Boundary with the drawing of pictures and with a disk: neither may end a run, least of all a complete one.
            log.warning("%s and its table could not be written.", folder / LOSS_PICTURE, exc_info=True)

    def _spared(self, newest: Path | None) -> set[Path]:
        return {path for path in (newest, self.best.checkpoint) if path}

    def _refused(self, error: SaveFailed) -> bool:
        self._refusal = error
        self._due_at_s = time.monotonic() + RETRY_S
        return False
