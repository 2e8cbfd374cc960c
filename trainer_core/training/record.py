"""What is written about a run into the files that come out of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..lora_files import TrainingRecord
from ..model.encode import TrainingData
from ..model.versions import versions
from .facts import RunFacts
from .history import LossHistory


def training_record(facts: RunFacts, data: TrainingData, losses: Sequence[float | None]) -> TrainingRecord:
    """The record of a run after `len(losses)` steps.

    There is no date in it: the same run gives the same file, byte for byte.
    """
    final_loss = LossHistory(losses).smoothed
    return TrainingRecord(
        settings=facts.settings,
        trained_steps=len(losses),
        width=data.width,
        height=data.height,
        image_count=len(data.items),
        caption_count=len({item.caption for item in data.items}),
        dataset_fingerprint=data.fingerprint,
        base_model=facts.model,
        default_caption=data.default_caption or None,
        caption_sample=data.items[0].caption,
        final_loss=final_loss if math.isfinite(final_loss) else None,
        versions=versions(),
        start_lora=facts.start_lora or None,
    )
