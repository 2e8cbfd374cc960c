"""The losses of a run, and when they say that it has become unstable."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..errors import NonFinite

SMOOTHING = 0.98
"""Weight of the past in the smoothed loss; one step at batch 1 says little, its noise level decides the loss."""
MAX_SKIPPED_IN_A_ROW = 3
MAX_SKIPPED_IN_ALL = 10


class LossHistory:
    """One entry per step: the loss, or None where the update was skipped because something was not finite."""

    def __init__(self, entries: Iterable[float | None] = (), *, forgiven: int = 0) -> None:
        self.entries: list[float | None] = []
        self.forgiven = forgiven
        """Skipped entries that no longer count, because settings were changed after them."""
        self.smoothed = math.nan
        """Running mean of the applied ones: the plain mean at first, then an exponential one of weight `SMOOTHING`."""
        self._applied = 0
        for entry in entries:
            self.add(entry)

    def add(self, loss: float | None) -> None:
        self.entries.append(loss)
        if loss is not None:
            self._applied += 1
            weight = min(SMOOTHING, 1.0 - 1.0 / self._applied)
            self.smoothed = loss if self._applied == 1 else weight * self.smoothed + (1.0 - weight) * loss

    @property
    def applied(self) -> list[float]:
        """The losses of the steps that changed something."""
        return [entry for entry in self.entries if entry is not None]

    @property
    def skipped(self) -> int:
        return len(self.entries) - self._applied

    @property
    def last_was_skipped(self) -> bool:
        return bool(self.entries) and self.entries[-1] is None

    def require_stable(self) -> None:
        """Raise `NonFinite` after the third skipped step in a row or the tenth in all."""
        skipped = self.skipped - self.forgiven
        in_a_row = self.entries[-MAX_SKIPPED_IN_A_ROW:] == [None] * MAX_SKIPPED_IN_A_ROW
        if in_a_row or (self.last_was_skipped and skipped >= MAX_SKIPPED_IN_ALL):
            raise NonFinite(
                f"Training became unstable: the loss or gradient was not finite in {skipped} steps, the last at "
                f"step {len(self.entries)}. Lower the learning rate (a half or a third), "
                "or turn gradient clipping on, and run again."
            )
