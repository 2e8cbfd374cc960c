"""Whether what must be equal is equal on this device, at the width that is measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from . import ours
from .cases import Case, Setup

STEPS = 20
LEARNING_RATE = 1e-3


def modes_agree(setup: Setup, case: Case, patcher: Any, folder: Path) -> dict[str, Any]:
    """Train in each memory mode; the largest relative difference of an adapter matrix to that of the first."""
    data = ours.training_data(setup, patcher, folder)
    variants = {
        "resident": dataclasses.replace(case, mode="resident"),
        "resident, recomputed": dataclasses.replace(case, mode="resident", options=("recomputed",)),
        **{mode: dataclasses.replace(case, mode=mode) for mode in ("offloaded", "streamed")},
    }
    results = {name: _train(setup, case, patcher, data, folder / name) for name, case in variants.items()}
    first, *others = results
    return {f"{first} and {name}": _difference(results[first], results[name]) for name in others}


def resume(setup: Setup, case: Case, patcher: Any, folder: Path) -> dict[str, Any]:
    """Train in one go and in two; the largest relative difference, and whether every bit is the same."""
    data = ours.training_data(setup, patcher, folder)
    whole = _train(setup, case, patcher, data, folder / "whole")
    again = _train(setup, case, patcher, data, folder / "again")
    half = _train(setup, case, patcher, data, folder / "parts", steps=STEPS // 2)
    rest = _train(setup, case, patcher, data, folder / "parts", resume=half.run)
    return {
        "in one go and again": _difference(whole, again),
        "in one go and resumed": _difference(whole, rest),
        "same bits when resumed": _difference(whole, rest) == 0 and whole.losses == rest.losses,
    }


def _train(
    setup: Setup, case: Case, patcher: Any, data: Any, folder: Path, *, steps: int = STEPS, resume: str = ""
) -> Any:
    settings = ours.settings_of(setup, case, steps=steps, learning_rate=LEARNING_RATE)
    return ours.train(case, patcher, data, settings, ours.place_in(folder, resume=resume))


def _difference(one: Any, other: Any) -> float:
    """Largest ||a - b|| / ||a|| of the adapters' two factors; NaN where one is not finite."""
    pairs = [
        (getattr(weights, name), getattr(other.modules[path], name))
        for path, weights in one.modules.items()
        for name in ("down", "up")
    ]
    return max(((a - b).norm() / a.norm()).item() for a, b in pairs)
