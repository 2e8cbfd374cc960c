"""Whether a run fits: checked before anything is loaded, and said in numbers where it does not."""

from __future__ import annotations

from typing import Any

from ..config import TrainSettings
from ..errors import DoesNotFit, TrainingDataMismatch
from ..model import host
from ..model.encode import TrainingData, projection_identity
from ..model.memory import GIB, MemoryMode, MemoryPlan, choose_plan, largest_size_that_fits, make_plan, measure_sizes
from ..model.network import check_model

_LOOKED_AT = 8
"""The captions of the most characters, among which the one of the most tokens is taken to be."""


def plan_run(patcher: Any, data: TrainingData, settings: TrainSettings) -> MemoryPlan:
    """Refuse what cannot work, and choose how the run uses the device's memory.

    Raises `WrongModel`, `TrainingDataMismatch`, and `DoesNotFit` where not even the smallest mode can fit.
    """
    check_model(patcher)
    if data.projection != projection_identity(patcher):
        raise TrainingDataMismatch(
            "The training data was encoded with another model's text layers. "
            "Connect the same model to the encode node and to the train node, and run again."
        )
    device = patcher.load_device
    sizes = measure_sizes(patcher, settings, (data.width, data.height), most_text_tokens(data))
    least, total = make_plan(sizes, MemoryMode.STREAMED), host.total_memory(device)
    if least.predicted_bytes > total:
        reason = f"about {least.predicted_bytes / GIB:.1f} GiB of {total / GIB:.1f} GiB"
        raise DoesNotFit(too_large(patcher, data, settings, reason, total))
    return choose_plan(sizes, settings, host.usable_memory(device))


def most_text_tokens(data: TrainingData) -> int:
    """Tokens of the longest caption."""
    longest = sorted(range(len(data.items)), key=lambda index: -len(data.items[index].caption))[:_LOOKED_AT]
    return max(data.text(index).shape[0] for index in longest)


def too_large(patcher: Any, data: TrainingData, settings: TrainSettings, reason: str, available: int) -> str:
    """What does not fit into `available` bytes, and what to change."""
    advice = []
    if settings.batch_size > 1:
        advice.append("lower the batch size (gradient accumulation gives the same result as a larger batch)")
    size = largest_size_that_fits(patcher, settings, (data.width, data.height), most_text_tokens(data), available)
    if size:
        advice.append(f"choose {size[0]}x{size[1]} or less, which is predicted to fit")
    advice.append("choose a smaller rank" if size else "choose a smaller resolution or rank")
    return (
        f"Training at {data.width}x{data.height} with batch size {settings.batch_size} and rank {settings.rank} does "
        f"not fit on the device, not even with weights streamed from main memory ({reason}). To run again: "
        f"{', or '.join(advice)}."
    )
