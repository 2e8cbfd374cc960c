"""What the presets say about memory is what the trainer would plan."""

from __future__ import annotations

import json

import preset_predictions
from ideogram4_lora_trainer.trainer_core.model.memory import MemoryMode


def test_the_table_in_the_browser_is_that_of_the_predictor() -> None:
    written = preset_predictions.FILE.read_text(encoding="utf-8")
    assert written == preset_predictions.as_json(), "run: python dev.py bench preset_predictions"


def test_more_memory_is_never_worse_and_more_work_never_better() -> None:
    entries = json.loads(preset_predictions.FILE.read_text(encoding="utf-8"))
    for entry in entries:
        modes = [MemoryMode[entry["plans"][str(card)]["mode"].upper()] for card in preset_predictions.CARDS_GB]
        assert modes == sorted(modes, reverse=True)
        for card in preset_predictions.CARDS_GB:
            assert entry["plans"][str(card)]["gib"] <= card
    by_size = {(e["base"], e["rank"], e["pixels"]): e["plans"]["8"]["resident"] for e in entries}
    for (base, rank, pixels), resident in by_size.items():
        assert all(r <= resident for (b, k, p), r in by_size.items() if (b, k) == (base, rank) and p > pixels)
