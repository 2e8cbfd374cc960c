"""Socket types of the pack. Where core has one (MODEL, VAE, CLIP, LORA_MODEL, LOSS_MAP) it is used instead."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..trainer_core.lora_files import TrainingRecord

DatasetSocket = io.Custom("IDEOGRAM4_DATASET")
TrainingDataSocket = io.Custom("IDEOGRAM4_TRAINING_DATA")
PreviewsSocket = io.Custom("IDEOGRAM4_PREVIEWS")
SettingsSocket = io.Custom("IDEOGRAM4_TRAIN_SETTINGS")


class TrainedLoraModel(dict[str, torch.Tensor]):
    """A LORA_MODEL in comfy keys, as core's nodes take it, that also remembers the run it came from."""

    def __init__(self, tensors: dict[str, torch.Tensor], record: TrainingRecord) -> None:
        super().__init__(tensors)
        self.record = record
