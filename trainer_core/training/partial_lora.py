"""The LoRA of a run that ended early: what has been learnt so far, ready to be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import UserError
from ..lora_files import build_metadata, read_header, save_lora
from ..model.encode import TrainingData
from .facts import RunFacts
from .record import training_record
from .state import RunState


def save_partial_lora(
    state: RunState, facts: RunFacts, data: TrainingData, folder: Path, stem: str, *, called: str = "The LoRA so far"
) -> tuple[str, str]:
    """Write `stem.safetensors` in ComfyUI's keys, unless an earlier stop at the same step did.

    Returns the file's name, "" if it could not be written, and words for the user.
    """
    metadata = build_metadata(training_record(facts, data, state.losses), title=stem)
    name = f"{stem}.safetensors"
    if not _is_lora_with(folder / name, metadata):
        try:
            name = save_lora(state.adapter, folder=folder, stem=stem, layout="comfy", metadata=metadata).name
        except UserError as error:
            return "", f"Its LoRA could not be written: {error}"
    return name, f"{called} is {name} in {folder.name}."


def _is_lora_with(path: Path, metadata: Mapping[str, str]) -> bool:
    """Whether a file's header has these entries. Equal runs give equal ones, so its contents are the same too."""
    try:
        found = read_header(path)[1]
    except (UserError, OSError):
        return False
    return metadata.items() <= found.items()
