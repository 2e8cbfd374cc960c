"""Training on the device that TEST_DEVICE names: `cuda`, or `cpu` for what does not need a GPU. Skipped without it.

`TEST_DEVICE=cuda python dev.py test tests/gpu`
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.model import host
from ideogram4_lora_trainer.trainer_core.training import loop
from networks import place_under, training_data

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Any]:
    """`train(patcher, settings, memory_mode="streamed")`; each run in a folder of its own unless `place` is given."""
    count = 0

    def run(
        patcher: Any,
        settings: TrainSettings,
        *,
        size: tuple[int, int] = (64, 96),
        lengths: tuple[int, ...] = (5, 9),
        place: Any = None,
        on_plan: Any = lambda plan: None,
        on_note: Any = lambda note: None,
        **options: Any,
    ) -> Any:
        nonlocal count
        count += 1
        data = training_data(tmp_path / f"cache{size}{lengths}", patcher, size=size, lengths=lengths)
        settings = dataclasses.replace(settings, **options)
        place = place or place_under(tmp_path / str(count))
        with torch.inference_mode():
            return loop.train(patcher, data, settings, place, on_plan=on_plan, on_note=on_note)

    return run


@pytest.fixture
def real_width() -> Iterator[Callable[[int, str], Any]]:
    """`real_width(4, "bf16")`: so many blocks of the released width with random weights, in main memory."""
    spec = importlib.util.spec_from_file_location("random_models", ROOT / "benchmarks" / "support" / "models.py")
    assert spec is not None and spec.loader is not None
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    made: list[Any] = []

    def make(blocks: int, fmt: str) -> Any:
        made.append(models.make_model(blocks, fmt, "real", os.environ["TEST_DEVICE"]))
        return made[-1]

    yield make
    with torch.inference_mode():
        for patcher in made:
            host.unload(patcher)
    made.clear()
    host.empty_cache()
