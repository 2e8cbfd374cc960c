"""Guard against NaN and infinity: one bad step is skipped, a run of them stops the training."""

from __future__ import annotations

import math

from ..errors import NonFinite

MAX_IN_A_ROW = 3
MAX_IN_ALL = 10


class NonFiniteGuard:
    """Counts steps whose loss or gradient was not finite."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self.in_all = 0

    def accept(self, step: int, loss: float, grad_norm: float) -> bool:
        """True when the update of this step may be applied.

        Raises `NonFinite` at the third bad step in a row or the tenth in all.
        """
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self.in_a_row = 0
            return True
        self.in_a_row += 1
        self.in_all += 1
        if self.in_a_row >= MAX_IN_A_ROW or self.in_all >= MAX_IN_ALL:
            raise NonFinite(
                f"Training became unstable: the loss or gradient was not finite in {self.in_all} steps, the last at "
                f"step {step + 1}. Lower the learning rate (a half or a third), "
                "or turn gradient clipping on, and run again."
            )
        return False
