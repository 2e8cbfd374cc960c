"""The trainer of this project, as its train node calls it."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from . import pack
from .cases import Case, Setup
from .meter import GIB, Meter


def run(setup: Setup, case: Case, patcher: Any, folder: Path, meter: Meter) -> dict[str, Any]:
    """Train for some steps; what the run says about itself."""
    data = training_data(setup, patcher, folder)
    notes: list[str] = []
    plans: list[Any] = []
    peaks = [0]

    def on_step(report: Any) -> None:
        meter.step_done()
        peaks[0] = max(peaks[0], getattr(report, "peak_bytes", 0))

    hooks: dict[str, Any] = {"on_step": on_step, "on_note": notes.append}
    if "on_plan" in inspect.signature(pack.core("training.loop").train).parameters:
        hooks["on_plan"] = plans.append
    settings = settings_of(setup, case)
    meter.start()
    train(case, patcher, data, settings, place_in(folder), **hooks)
    return said_by_run(notes, plans, peaks[0])


def train(case: Case, patcher: Any, data: Any, settings: Any, place: Any, **hooks: Any) -> Any:
    """The trainer's own `train`, as a node calls it."""
    room = _as_if_full() if "recomputed" in case.options else contextlib.nullcontext()
    with torch.inference_mode(), room:
        return pack.core("training.loop").train(patcher, data, settings, place, **hooks)


@contextlib.contextmanager
def _as_if_full() -> Iterator[None]:
    """Let a run plan for a device without room to spare, so that it recomputes each block, as the others do."""
    host = pack.core("model.host")
    usable_memory = host.usable_memory
    host.usable_memory = lambda device: 0
    try:
        yield
    finally:
        host.usable_memory = usable_memory


def settings_of(setup: Setup, case: Case, **more: Any) -> Any:
    """`TrainSettings` of a case. Raises `ValueError` for one that this version of the trainer does not have."""
    settings = pack.core("config").TrainSettings
    wanted = {
        "memory_mode": case.mode or "resident",
        "gradient_checkpointing": "kept" not in case.options,
        "compile_blocks": "compiled" in case.options,
        "quantized_products": "quantized" in case.options,
    }
    known = {field.name for field in dataclasses.fields(settings)}
    missing = [name for name, value in wanted.items() if value and name not in known]
    if missing:
        raise ValueError(f"this version of the trainer has no setting {', '.join(missing)}")
    values = {name: value for name, value in wanted.items() if name in known}
    return settings(**{"steps": setup.steps, "rank": setup.rank, "warmup_steps": 0, **values, **more})


def training_data(setup: Setup, patcher: Any, folder: Path) -> Any:
    """Two images of noise with captions of noise, as the encode step leaves them."""
    encode, cache = pack.core("model.encode"), pack.core("model.cache").EncodingCache(folder / "cache")
    width = patcher.model.diffusion_model.input_proj.out_features
    dtype = torch.float32 if setup.device == "cpu" else torch.bfloat16
    items, side = [], setup.size // 16
    for index in range(2):
        draw = torch.Generator().manual_seed(index)
        item = encode.EncodedItem(f"{index}.png", f"caption {index}", f"{index:02}aa", f"{index:02}bb")
        cache.store(item.latent_key, torch.randn(128, side, side, generator=draw))
        cache.store(item.text_key, torch.randn(setup.text_tokens, width, generator=draw).to(dtype))
        items.append(item)
    return encode.TrainingData(
        items=tuple(items),
        width=setup.size,
        height=setup.size,
        cache=cache,
        projection=encode.projection_identity(patcher),
        vae_statistics=pack.core("model.latents").ideogram_statistics(),
        default_caption="",
        newly_encoded=0,
    )


def place_in(folder: Path, **more: Any) -> Any:
    """A `RunPlace` below `folder`."""
    return pack.core("training.runs").RunPlace(runs_folder=folder / "runs", loras_folder=folder / "loras", **more)


def said_by_run(notes: list[str], plans: list[Any], peak_bytes: int) -> dict[str, Any]:
    """Its notes, the plan in words, and predicted and measured GiB where the run told them."""
    # The self-check's remark on random weights says nothing here.
    said: dict[str, Any] = {"notes": [note for note in notes if "random weights" not in note]}
    if plans:
        said["plan"] = str(plans[-1])
        said["predicted_gib"] = plans[-1].predicted_bytes / GIB
        said["predicted_allocated_gib"] = plans[-1].allocated_bytes / GIB
    elif found := re.search(r"([\d.]+) GiB predicted", " ".join(notes)):
        said["predicted_gib"] = float(found[1])
    if peak_bytes:
        said["measured_allocated_gib"] = peak_bytes / GIB
    return said
