"""The same pictures from the base model and from LoRAs, at several strengths and steps, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import LoraUnreadable, SettingsError
from ..lora_files import LoraWeights, export_lora, parse_lora, read_lora
from ..model import host
from ..model.sampling import PictureSettings, check_parts, sample_picture
from ..pictures import caption_strip, labelled_grid
from .checkpoints import ADAPTER, list_checkpoints
from .previews import UNGUIDED

MAX_PICTURES = 100


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """A column: a LoRA at a strength; the base model without modules."""

    label: str
    modules: Mapping[str, LoraWeights] = dataclasses.field(default_factory=dict)
    strength: float = 0.0


def variants(loras: Mapping[str, Mapping[str, LoraWeights]], strengths: Sequence[float]) -> list[Variant]:
    """The base model and every LoRA, by its label, at every strength that is not zero."""
    steady = [strength for strength in dict.fromkeys(strengths) if strength != 0]
    return [
        Variant("base"),
        *(
            Variant(f"strength {strength:g}, {label}", modules, strength)
            for label, modules in loras.items()
            for strength in steady
        ),
    ]


def loras_of_run(run_folder: Path) -> dict[str, Mapping[str, LoraWeights]]:
    """The LoRA of each checkpoint of a run that is still there, as its file would hold it, by step.

    Raises `LoraUnreadable` where there is none, and `SettingsError` for too many.
    """
    found: dict[str, Mapping[str, LoraWeights]] = {}
    folders = list_checkpoints(run_folder)[::-1]
    if len(folders) > MAX_PICTURES:  # each is read whole
        raise SettingsError(
            f"{run_folder.name} has {len(folders)} checkpoints, more than the {MAX_PICTURES} pictures of a comparison. "
            "Delete some of them, or compare a single LoRA."
        )
    for folder in folders:
        step = int(folder.name.split("_")[1])
        if step:
            modules = read_lora(folder / ADAPTER).modules
            found[f"step {step}"] = parse_lora(export_lora(modules, "comfy"), name=folder.name).modules
    if not found:
        raise LoraUnreadable(f"{run_folder.name} has no checkpoint after step 0. Choose another run.")
    return found


def comparison(
    patcher: Any,
    pictures: PictureSettings,
    columns: Sequence[Variant],
    *,
    title: str,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> np.ndarray:
    """A labelled grid, prompts down and variants across: uint8 (height, width, 3).

    Raises `SettingsError` for more than `MAX_PICTURES`, `WrongModel`, `WrongVae`, `WrongTextEncoder`, `LoraMismatch`
    and ComfyUI's interrupt.
    """
    check_parts(pictures, patcher)
    total = len(columns) * len(pictures.prompts)
    if total > MAX_PICTURES:
        raise SettingsError(
            f"{len(columns)} variants of {len(pictures.prompts)} prompts are {total} pictures, more than "
            f"{MAX_PICTURES}. Use fewer strengths or prompts."
        )
    rows: list[list[np.ndarray]] = [[] for _ in pictures.prompts]
    # A LoRA after the other: bringing one to the device takes longer than another prompt.
    for index, variant in enumerate(columns):
        for prompt, row in enumerate(rows):
            host.raise_if_interrupted()
            progress(index * len(rows) + prompt, total, variant.label)
            row.append(sample_picture(patcher, pictures, prompt, modules=variant.modules, strength=variant.strength))
    grid = labelled_grid(rows, pictures.prompts, [column.label for column in columns], title=title)
    return grid if pictures.guided else caption_strip(grid, UNGUIDED)


def parse_strengths(text: str, highest: float) -> list[float]:
    """Numbers separated by commas or spaces. Raises `SettingsError`."""
    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
        # Written so that NaN fails it.
        if numbers and all(-highest <= number <= highest for number in numbers):
            return numbers
    except ValueError:
        pass
    raise SettingsError(
        f"strengths must be numbers from {-highest:g} to {highest:g} with commas between them, as in 0.5, 1; not "
        f"{text[:80]!r}."
    )
