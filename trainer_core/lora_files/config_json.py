"""The config.json beside a LoRA: the training configuration that fal's trainer publishes, and ours."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import SaveFailed
from ..storage import place_new_file
from .metadata import file_name
from .record import TrainingRecord


def config_json(record: TrainingRecord, *, output_lora_format: str, files: Mapping[str, Path]) -> dict[str, Any]:
    """What was trained, for programs: fal's names at the top level, ours under `ideogram4_lora_trainer`.

    output_lora_format: as the user chose it. files: layout to path of each LoRA, of which the names are kept.
    """
    settings = record.settings
    return {
        "steps": settings.steps,
        "learning_rate": settings.learning_rate,
        "resolution": f"{record.width}x{record.height}",
        "default_caption": record.default_caption,
        "output_lora_format": output_lora_format,
        "image_count": record.image_count,
        "caption_count": record.caption_count,
        "ideogram4_lora_trainer": {
            "width": record.width,
            "height": record.height,
            "rank": settings.rank,
            "alpha": settings.rank,
            "trained_steps": record.trained_steps,
            "final_loss": record.final_loss,
            "start_lora": record.start_lora and file_name(record.start_lora),
            "base_model": file_name(record.base_model),
            "dataset_fingerprint": record.dataset_fingerprint,
            "files": {layout: path.name for layout, path in files.items()},
            "settings": dataclasses.asdict(settings),
            "versions": dict(record.versions),
        },
    }


def save_config(config: Mapping[str, Any], *, folder: Path, stem: str) -> Path:
    """Write `config` to a new file `stem.json` in `folder` (`stem_2` ... if taken) and return its path.

    Raises `SaveFailed`; then no new file is there.
    """
    try:
        text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SaveFailed(f"{stem}.json was not saved: {error}. Every value must be finite and plain JSON.") from error
    return place_new_file(folder, stem, ".json", [text.encode("utf-8"), b"\n"])
