"""Settings: every limit from both sides, unknown names, the round trip."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.errors import SettingsError

LIMITS: dict[str, tuple[Any, Any]] = {
    "steps": (1, 40_000),
    "learning_rate": (1e-6, 1e-2),
    "rank": (1, 512),
    "seed": (0, 2**64 - 1),
    "batch_size": (1, 64),
    "gradient_accumulation": (1, 1024),
    "warmup_steps": (0, 40_000),
    "weight_decay": (0.0, 1.0),
    "max_grad_norm": (0.0, 1e6),
    "sigma_mu": (-5.0, 5.0),
    "sigma_std": (0.1, 5.0),
}


@pytest.mark.parametrize(("name", "limits"), LIMITS.items())
def test_limits_from_both_sides(name: str, limits: tuple[Any, Any]) -> None:
    low, high = limits
    below, above = (
        (low - 1, high + 1) if isinstance(low, int) else (math.nextafter(low, -9e9), math.nextafter(high, 9e9))
    )
    for value in limits:
        assert getattr(TrainSettings(**{name: value}), name) == value
    for value in (below, above, "1", None, True, float("nan")):
        with pytest.raises(SettingsError, match=name):
            TrainSettings(**{name: value})


@pytest.mark.parametrize("name", ["schedule", "latent_statistics", "train_modulation", "rank_stabilized"])
def test_choices_refuse_what_is_not_one(name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        TrainSettings(**{name: "neither"})


def test_unknown_names_are_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="lerning_rate"):
        TrainSettings.from_mapping({"lerning_rate": 1e-4})


def test_json_round_trip() -> None:
    settings = TrainSettings(steps=7, learning_rate=3.3e-5, seed=2**64 - 1, schedule="cosine", train_modulation=True)
    assert TrainSettings.from_mapping(json.loads(settings.to_json())) == settings
