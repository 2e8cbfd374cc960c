"""What is known about a finished training, as the header of a LoRA and its config.json tell it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ..config import TrainSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """One training run, for the people and programs that meet its LoRA."""

    settings: TrainSettings
    trained_steps: int
    """Steps that were done: fewer than `settings.steps` after a cancel."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    image_count: int
    caption_count: int
    """Distinct captions."""
    caption_sample: str
    """One caption of the set, to see how prompts for this LoRA are worded."""
    default_caption: str | None
    dataset_fingerprint: str
    """Hash of the images and captions."""
    base_model: str
    """Name or path of the model file; only the name is ever written."""
    final_loss: float | None
    """Smoothed loss at the end."""
    versions: Mapping[str, str]
    """Program to version."""
    start_lora: str | None = None
    """Name of the LoRA that the run began with."""
