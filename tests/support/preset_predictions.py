"""What the presets of the train node say about memory: the plans of `auto` for the released sizes, as a table.

web/presets/predictions.json holds it for the browser; a test compares the two.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.model import memory
from meta_model import meta_patcher

FILE = Path(__file__).resolve().parents[2] / "web" / "presets" / "predictions.json"
CARDS_GB = (8, 12, 16, 24, 32)
TAKEN_GIB = 0.9
"""What the driver, ComfyUI's reserve and the screen take of a card."""
BYTES_PER_WEIGHT = {"nvfp4": 0.5625, "fp8": 1.0, "bf16": 2.0}
"""int8 takes what fp8 takes."""
SIZES = ((512, 512), (768, 768), (1024, 1024), (1536, 1024), (1920, 1088))
RANKS = (16, 32, 64, 128)
TEXT_TOKENS = 300


def predictions() -> list[dict[str, Any]]:
    """One entry for each format, size and rank, with a plan for each card: GiB in all, and the part of the blocks'
    weights that lies on the card.
    """
    patcher = meta_patcher()
    entries = []
    for base, bytes_per_weight in BYTES_PER_WEIGHT.items():
        for size in SIZES:
            for rank in RANKS:
                settings = TrainSettings(rank=rank)
                sizes = memory.measure_sizes(patcher, settings, size, TEXT_TOKENS)
                sizes = dataclasses.replace(
                    sizes,
                    block_weights=int(sizes.block_weights * bytes_per_weight / 2),
                    cast_weight=0 if base == "bf16" else 2 * 4608 * 13824,
                )
                plans = {str(card): _plan(sizes, settings, card) for card in CARDS_GB}
                entries.append({"base": base, "pixels": size[0] * size[1], "rank": rank, "plans": plans})
    return entries


def _plan(sizes: memory.Sizes, settings: TrainSettings, card_gb: int) -> dict[str, Any]:
    plan = memory.choose_plan(sizes, settings, int((card_gb - TAKEN_GIB) * memory.GIB))
    return {
        "mode": str(plan.mode),
        "gib": round(plan.predicted_bytes / memory.GIB, 1),
        "resident": round(plan.resident_bytes / (sizes.blocks * sizes.block_weights), 2),
    }


def as_json() -> str:
    """One line an entry, so that a change can be read."""
    return "[\n" + ",\n".join(f"  {json.dumps(entry)}" for entry in predictions()) + "\n]\n"
