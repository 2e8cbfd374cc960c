"""Previews and measurements on a GPU: training does not notice them, in any memory mode."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.model.sampling import PictureSettings, encode_prompt
from ideogram4_lora_trainer.trainer_core.training.journal import read_journal
from ideogram4_lora_trainer.trainer_core.training.loop import train
from ideogram4_lora_trainer.trainer_core.training.previews import PreviewSettings
from networks import FORMATS, place_under, training_data

DEVICE = os.environ.get("TEST_DEVICE", "")
pytestmark = pytest.mark.skipif(DEVICE not in ("cuda", "cpu"), reason="TEST_DEVICE is not set")

SETTINGS = TrainSettings(
    steps=6, rank=4, learning_rate=1e-3, warmup_steps=0, validation_images=1, validation_every=3, keep_checkpoints=1
)


@pytest.fixture
def previews(tiny_model: Callable[..., Any], tiny_clip: Any, tiny_vae: Any) -> PreviewSettings:
    with torch.inference_mode():
        pictures = PictureSettings(
            prompts=("a red circle",),
            conditionings=(encode_prompt(tiny_clip, "a red circle"),),
            vae=tiny_vae,
            unconditional=tiny_model("fp8_scaled", unconditional=True),
            width=64,
            height=64,
            preset="turbo",
            seed=1,
        )
    return PreviewSettings(pictures=pictures, every=2)


@pytest.mark.parametrize("mode", ["resident", "offloaded", "streamed"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_a_run_with_previews_learns_what_one_without_learns(
    tiny_model: Callable[..., Any], previews: PreviewSettings, tmp_path: Path, fmt: str, mode: str
) -> None:
    patcher = tiny_model(fmt)
    data = training_data(tmp_path / "encodings", patcher, count=4)
    settings = TrainSettings(**{**SETTINGS.__dict__, "memory_mode": mode})
    results = {}
    for name, shown in (("watched", previews), ("unwatched", None)):
        with torch.inference_mode():
            results[name] = train(patcher, data, settings, place_under(tmp_path / name), previews=shown)
    (run,) = (tmp_path / "watched" / "runs").iterdir()
    events = [event["event"] for event in read_journal(run)]
    assert events.count("preview") == 4 and events.count("validation") == 3
    assert not any("skipped" in str(event.get("text")) for event in read_journal(run)), "every preview was made"
    assert results["watched"].losses == results["unwatched"].losses
    for path, weights in results["unwatched"].modules.items():
        assert torch.equal(weights.up, results["watched"].modules[path].up)
