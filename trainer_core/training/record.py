"""What is written about a run into the files that come out of it."""

from __future__ import annotations

import math

from ..config import TrainSettings
from ..lora_files import TrainingRecord
from ..model.encode import TrainingData
from ..model.versions import versions


def training_record(
    settings: TrainSettings, data: TrainingData, base_model: str, *, trained_steps: int, final_loss: float
) -> TrainingRecord:
    """The record of a run. There is no date in it: the same run gives the same file, byte for byte."""
    return TrainingRecord(
        settings=settings,
        trained_steps=trained_steps,
        width=data.width,
        height=data.height,
        image_count=len(data.items),
        caption_count=len({item.caption for item in data.items}),
        dataset_fingerprint=data.fingerprint,
        base_model=base_model,
        default_caption=data.default_caption or None,
        caption_sample=data.items[0].caption,
        final_loss=final_loss if math.isfinite(final_loss) else None,
        versions=versions(),
    )
