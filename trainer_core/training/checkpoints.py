"""Checkpoints of a run: one folder each, `step_000120`, that appears whole or not at all.

    adapter.safetensors     the fp32 adapter in ComfyUI's LoRA keys: any LoRA loader opens it
    optimizer.safetensors   the optimiser's tensors
    state.json              step, losses, what the run is made of, and the SHA-256 of the two

Covered: a crash, a kill or a power cut at any moment of writing or deleting; a checkpoint that was damaged later (its
hashes tell, and the one before it is used); one that a stranger made (only safetensors is opened, names and shapes
are compared with the adapters before use, numbers must be finite). Not covered: a disk that reports a write as done
and loses it; a stranger's checkpoint that is whole but trained on something else than it says.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from ..errors import CheckpointUnreadable, UserError
from ..lora_files import LoraWeights, comfy_state_dict, read_header, read_lora, tensor_file
from ..storage import Pieces, place_new_folder, remove_folder
from .state import RunState

ADAPTER, OPTIMIZER, STATE = "adapter.safetensors", "optimizer.safetensors", "state.json"
FORMAT = 1
"""Raised when an older version could not read what is written now."""
MAX_STATE_BYTES = 64 * 2**20
_NAME = re.compile(r"step_(\d{6,})(?:_(\d+))?")


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint as read: all of it was checked."""

    name: str
    state: RunState
    facts: Mapping[str, Any]
    """What the run is made of, as it was given to `checkpoint_files`."""


def checkpoint_name(step: int) -> str:
    return f"step_{step:06}"


def checkpoint_files(state: RunState, facts: Mapping[str, Any]) -> dict[str, Pieces]:
    """The files of a checkpoint, in the order in which they are written. `facts` is plain JSON."""
    tensors: dict[str, Pieces] = {
        ADAPTER: tensor_file(comfy_state_dict(state.adapter), {"format": "pt"}),
        OPTIMIZER: tensor_file(state.optimizer, {"format": "pt"}),
    }
    text = json.dumps(
        {
            "format": FORMAT,
            "step": state.step,
            "seconds": state.seconds,
            "losses": state.losses,
            "facts": facts,
            "sha256": {name: _sha256(pieces) for name, pieces in tensors.items()},
        },
        allow_nan=False,
    )
    return {**tensors, STATE: [text.encode()]}


def write_checkpoint(run_folder: Path, state: RunState, facts: Mapping[str, Any]) -> Path:
    """Add a checkpoint to a run and return its folder. Raises `SaveFailed`; then there is no new one."""
    return place_new_folder(run_folder, checkpoint_name(state.step), checkpoint_files(state, facts))


def list_checkpoints(run_folder: Path) -> list[Path]:
    """Checkpoint folders, newest first, none of them opened."""
    found = []
    for path in run_folder.iterdir() if run_folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and (path / STATE).is_file():
            found.append((int(match[1]), int(match[2] or 1), path))
    return [path for *_, path in sorted(found, reverse=True)]


def newest_checkpoint(run_folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, and why newer ones were passed over."""
    passed_over: list[str] = []
    for folder in list_checkpoints(run_folder):
        try:
            return read_checkpoint(folder), passed_over
        except CheckpointUnreadable as error:
            passed_over.append(str(error))
    return None, passed_over


def delete_old_checkpoints(run_folder: Path, *, keep: int, spare: Path | None) -> None:
    """Leave the newest `keep` checkpoints, and `spare`: the newest that is known to be whole."""
    for folder in list_checkpoints(run_folder)[keep:]:
        if folder != spare:
            remove_folder(folder)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read and check a whole checkpoint. Raises `CheckpointUnreadable` saying what is wrong with it."""
    try:
        written = read_state_json(folder)
        for name in (ADAPTER, OPTIMIZER):
            if _sha256_of_file(folder / name) != written["sha256"].get(name):
                raise CheckpointUnreadable(f"{name} is not what was written")
        state = RunState(
            losses=tuple(written["losses"]),
            seconds=float(written["seconds"]),
            adapter=(adapter := read_lora(folder / ADAPTER).modules),
            optimizer=_read_optimizer(folder / OPTIMIZER, adapter),
        )
    except (OSError, UserError, safetensors.SafetensorError) as error:
        raise CheckpointUnreadable(
            f"The checkpoint {folder.parent.name}/{folder.name} cannot be used: {error}."
        ) from error
    return Checkpoint(folder.name, state, written["facts"])


def read_state_json(folder: Path) -> dict[str, Any]:
    """The checked contents of state.json. Raises `CheckpointUnreadable` or OSError."""
    path = folder / STATE
    if path.stat().st_size > MAX_STATE_BYTES:
        raise CheckpointUnreadable(f"{STATE} has more than {MAX_STATE_BYTES} bytes")
    try:
        written = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointUnreadable(f"{STATE} is damaged") from error
    if not isinstance(written, dict) or type(written.get("format")) is not int:
        raise CheckpointUnreadable(f"{STATE} is damaged")
    if written["format"] > FORMAT:
        raise CheckpointUnreadable("it was written by a newer version of this node pack")
    losses, seconds = written.get("losses"), written.get("seconds")
    sound = isinstance(losses, list) and all(loss is None or _is_finite_number(loss) for loss in losses)
    sound = sound and written.get("step") == len(losses or ()) and _is_finite_number(seconds)
    if not sound or not all(isinstance(written.get(key), dict) for key in ("facts", "sha256")):
        raise CheckpointUnreadable(f"{STATE} contradicts itself")
    return written


def _is_finite_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def _read_optimizer(path: Path, adapter: Mapping[str, LoraWeights]) -> dict[str, Tensor]:
    """The optimiser's tensors, each of which is a number or as large as the matrix that it belongs to."""
    shapes = {f"{module}.down": tuple(weights.down.shape) for module, weights in adapter.items()}
    shapes |= {f"{module}.up": tuple(weights.up.shape) for module, weights in adapter.items()}
    for key, info in read_header(path)[0].items():
        if info.dtype != torch.float32 or info.shape not in ((), shapes.get(key.rpartition(".")[0])):
            raise CheckpointUnreadable(f"{path.name}: {key} belongs to no matrix of the adapter")
    with safetensors.safe_open(path, framework="pt", device="cpu") as file:
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (it is no dict)
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise CheckpointUnreadable(f"{path.name}: {key} holds NaN or infinite values")
    return tensors


def _sha256(pieces: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _sha256_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return _sha256(iter(lambda: file.read(2**20), b""))
