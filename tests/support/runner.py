"""A tiny model trained on random data in a folder of its own, and what its journal says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from networks import place_under, training_data


class Runner:
    """Trains as a node does. All runs are under one folder; `run` is the only one."""

    def __init__(self, patcher: Any, folder: Path, *, count: int = 3) -> None:
        self.patcher, self.folder = patcher, folder
        self.data = training_data(folder / "encodings", patcher, count=count)
        self.notes: list[str] = []

    def train(self, settings: Any, **options: Any) -> Any:
        """`place` holds options of the `RunPlace`; all others go to `loop.train`."""
        from ideogram4_lora_trainer.trainer_core.training.loop import train

        place = place_under(self.folder, **options.pop("place", {}))
        with torch.inference_mode():
            return train(self.patcher, self.data, settings, place, on_note=self.notes.append, **options)

    @property
    def run(self) -> Path:
        (run,) = (self.folder / "runs").iterdir()
        return run

    def journal(self, kind: str) -> list[dict[str, Any]]:
        from ideogram4_lora_trainer.trainer_core.training.journal import read_journal

        return [event for event in read_journal(self.run) if event["event"] == kind]
