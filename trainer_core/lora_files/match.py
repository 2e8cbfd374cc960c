"""Does a LoRA fit a model? Wholly, or it is refused: ComfyUI only logs what it leaves out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ..errors import LoraMismatch
from .weights import LoraWeights
from .wording import some_of


@dataclasses.dataclass(frozen=True)
class Match:
    """A LoRA that fits."""

    modules: int
    """Layers that the LoRA adapts; all of them are in the model."""
    model_modules: int
    """Layers of the model that a LoRA could adapt."""

    def __str__(self) -> str:
        return f"{self.modules} of {self.modules} modules matched"


def match_modules(
    modules: Mapping[str, LoraWeights], shapes: Mapping[str, tuple[int, int]], *, name: str = "The LoRA"
) -> Match:
    """Check that every layer of the LoRA is in the model, with the same (out, in).

    shapes: the model's adaptable linears, canonical path to (out, in). Raises `LoraMismatch` with the list of what
    does not fit.
    """
    missing = [path for path in modules if path not in shapes]
    wrong = [
        f"{path} (LoRA {_times(weights.shape)}, model {_times(shapes[path])})"
        for path, weights in modules.items()
        if path in shapes and weights.shape != tuple(shapes[path])
    ]
    if not missing and not wrong and modules:
        return Match(len(modules), len(shapes))
    fitting = len(modules) - len(missing) - len(wrong)
    reasons = []
    if missing:
        reasons.append(f"{len(missing)} not in the model: {some_of(missing)}")
    if wrong:
        reasons.append(f"{len(wrong)} of another size: {some_of(wrong)}")
    raise LoraMismatch(
        f"{name} does not fit this model: {fitting} of {len(modules)} modules matched"
        f"{''.join(f'; {reason}' for reason in reasons)}. Nothing was applied. "
        "Choose a LoRA that was trained for Ideogram 4, or connect the model that it was trained on."
    )


def _times(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"
