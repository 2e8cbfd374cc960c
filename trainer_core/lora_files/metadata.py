"""What the header of a saved LoRA says about it: the keys that model browsers and other trainers show.

`modelspec.*` follows Stability AI's ModelSpec 1.0.0, `ss_*` the names that kohya's tools made common; the architecture
is named as musubi-tuner names it. `ideogram4_lora_trainer.*` is our own and complete: with the settings and the
dataset's fingerprint a run can be repeated. Only names of files go in, never where they lie on the user's disk.
"""

from __future__ import annotations

import json

from ..config import TrainSettings
from .record import TrainingRecord

ARCHITECTURE = "Ideogram-4/lora"
BASE_MODEL_VERSION = "ideogram4"
_CAPTION_SAMPLE_CHARACTERS = 500


def build_metadata(record: TrainingRecord, *, title: str) -> dict[str, str]:
    """Header entries for `save_lora`, all text; what is empty in `record` is left out.

    There is no date among them: equal runs give equal files.
    """
    size = f"{record.width}x{record.height}"
    entries = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": ARCHITECTURE,
        "modelspec.implementation": "https://huggingface.co/Comfy-Org/Ideogram-4",
        "modelspec.title": title,
        "modelspec.description": (
            f"LoRA for Ideogram 4, {record.trained_steps} steps on {record.image_count} images at {size}."
        ),
        "modelspec.resolution": size,
        "ss_base_model_version": BASE_MODEL_VERSION,
        "ss_sd_model_name": file_name(record.base_model),
        "ss_output_name": title,
        "ss_steps": str(record.trained_steps),
        "ss_resolution": f"({record.width}, {record.height})",
        "ss_num_train_images": str(record.image_count),
        **_settings_as_kohya(record.settings),
        "ideogram4_lora_trainer.settings": record.settings.to_json(),
        "ideogram4_lora_trainer.dataset_fingerprint": record.dataset_fingerprint,
        "ideogram4_lora_trainer.caption_sample": record.caption_sample[:_CAPTION_SAMPLE_CHARACTERS],
        "ideogram4_lora_trainer.start_lora": file_name(record.start_lora or ""),
        "ideogram4_lora_trainer.final_loss": "" if record.final_loss is None else f"{record.final_loss:.6g}",
        "ideogram4_lora_trainer.versions": json.dumps(dict(record.versions), sort_keys=True),
    }
    return {key: value for key, value in entries.items() if value}


def file_name(path: str) -> str:
    """The last part of a path in Windows' or POSIX spelling."""
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _settings_as_kohya(settings: TrainSettings) -> dict[str, str]:
    values = {
        "network_module": "peft.tuners.lora",
        "network_dim": settings.rank,
        "network_alpha": settings.rank,  # files always state alpha = rank, whatever the training scaled by
        "max_train_steps": settings.steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler": settings.schedule,
        "lr_warmup_steps": settings.warmup_steps,
        "optimizer": "torch.optim.AdamW",
        "seed": settings.seed,
        "batch_size_per_device": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "max_grad_norm": settings.max_grad_norm,
    }
    return {f"ss_{key}": str(value) for key, value in values.items()}
