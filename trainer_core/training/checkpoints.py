"""Checkpoints of a run: one folder each, `step_000120`, that appears whole or not at all.

    adapter.safetensors     the fp32 adapter in ComfyUI's LoRA keys: any LoRA loader opens it
    optimizer.safetensors   the optimiser's tensors
    state.json              step, losses, what the run is made of, and the SHA-256 of all three

Covered: a crash, a kill or a power cut at any moment of writing or deleting; a checkpoint that was damaged later (its
hashes tell, and the one before it is used); one that a stranger made (links and pipes are not opened, no file may be
larger than the run's adapters need, only safetensors is read, names and shapes are compared with the adapters before
use, numbers must be finite). Not covered: a disk that reports a write as done
and loses it; a stranger's checkpoint that is whole but trained on something else than it says.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import safetensors
import torch
from torch import Tensor

from ..errors import CheckpointUnreadable, SaveFailed, UserError
from ..lora_files import LoraWeights, TensorInfo, comfy_state_dict, read_header, read_lora, tensor_file
from ..storage import Pieces, is_disk_full, open_regular, place_new_folder, remove_folder
from .facts import RunFacts
from .state import RunState

ADAPTER, OPTIMIZER, STATE = "adapter.safetensors", "optimizer.safetensors", "state.json"
FORMAT = 1
"""Raised when an older version could not read what is written now."""
MAX_STATE_BYTES = 4 * 2**20
"""Forty thousand steps, the most there are, take about 1 MB."""
MAX_BYTES = 2**40
Judge: TypeAlias = Callable[[RunFacts, int], None]
_NAME = re.compile(r"step_(\d{6,})(?:_(\d+))?")


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint as read: all of it was checked."""

    name: str
    state: RunState
    facts: RunFacts


def checkpoint_name(step: int) -> str:
    return f"step_{step:06}"


def checkpoint_files(state: RunState, facts: RunFacts) -> dict[str, Pieces]:
    """The files of a checkpoint, in the order in which they are written."""
    tensors: dict[str, Pieces] = {
        ADAPTER: tensor_file(comfy_state_dict(state.adapter), {"format": "pt"}),
        OPTIMIZER: tensor_file(state.optimizer, {"format": "pt"}),
    }
    body = {
        "format": FORMAT,
        "step": state.step,
        "seconds": state.seconds,
        "losses": list(state.losses),
        "forgiven": state.forgiven,
        "facts": facts.to_json(),
    }
    hashes = {name: _sha256(pieces) for name, pieces in tensors.items()}
    body["sha256"] = {**hashes, STATE: _sha256([_canonical({**body, "sha256": hashes})])}
    return {**tensors, STATE: [json.dumps(body, allow_nan=False).encode()]}


def write_checkpoint(run_folder: Path, state: RunState, facts: RunFacts) -> Path:
    """Add a checkpoint to a run and return its folder. Raises `SaveFailed`; then there is no new one."""
    return place_new_folder(run_folder, checkpoint_name(state.step), checkpoint_files(state, facts))


def write_making_room(run_folder: Path, state: RunState, facts: RunFacts, *, spare: Collection[Path]) -> Path:
    """`write_checkpoint`; on a full disk all checkpoints but the newest, and `spare`, give up their room first."""
    try:
        return write_checkpoint(run_folder, state, facts)
    except SaveFailed as error:
        if is_disk_full(error):
            delete_old_checkpoints(run_folder, keep=1, spare=spare)
        return write_checkpoint(run_folder, state, facts)


def list_checkpoints(run_folder: Path) -> list[Path]:
    """Checkpoint folders, newest first, none of them opened. A folder that cannot be read has none."""
    found = []
    for path in subfolders(run_folder):
        match = _NAME.fullmatch(path.name)
        if match and os.path.lexists(path / STATE):
            found.append((int(match[1]), int(match[2] or 1), path))
    return [path for *_, path in sorted(found, reverse=True)]


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, links and hidden ones left out; [] when it cannot be read or is not there."""
    try:
        with os.scandir(folder) as entries:
            return [
                folder / entry.name
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
            ]
    except OSError:
        return []


def newest_checkpoint(run_folder: Path, *, max_bytes: int, judge: Judge) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, and why newer ones were passed over. For the rest see `read_checkpoint`."""
    passed_over: list[str] = []
    for folder in list_checkpoints(run_folder):
        try:
            return read_checkpoint(folder, max_bytes=max_bytes, judge=judge), passed_over
        except CheckpointUnreadable as error:
            passed_over.append(str(error))
    return None, passed_over


def delete_old_checkpoints(run_folder: Path, *, keep: int, spare: Collection[Path]) -> None:
    """Leave the newest `keep` checkpoints, and `spare`: the newest that is known to be whole, say."""
    for folder in list_checkpoints(run_folder)[keep:]:
        if folder not in spare:
            remove_folder(folder)


def read_checkpoint(folder: Path, *, max_bytes: int = MAX_BYTES, judge: Judge = lambda facts, step: None) -> Checkpoint:
    """Read and check a whole checkpoint, of which no file may have more than `max_bytes`.

    judge: called with what it was made of and its step before anything large is read; may raise an error of its own.
    Raises `CheckpointUnreadable` saying what is wrong with it.
    """
    try:
        written = read_state_json(folder)
    except (OSError, UserError) as error:
        raise _unusable(folder, error) from error
    judge(written["facts"], written["step"])
    try:
        for name in (ADAPTER, OPTIMIZER):
            if _sha256_of_file(folder / name, max_bytes) != written["sha256"].get(name):
                raise CheckpointUnreadable(f"{name} is not what was written")
        state = RunState(
            losses=tuple(written["losses"]),
            seconds=float(written["seconds"]),
            forgiven=written["forgiven"],
            adapter=(adapter := read_lora(folder / ADAPTER).modules),
            optimizer=_read_optimizer(folder / OPTIMIZER, adapter),
        )
    except (OSError, UserError, safetensors.SafetensorError) as error:
        raise _unusable(folder, error) from error
    return Checkpoint(folder.name, state, written["facts"])


def _unusable(folder: Path, error: Exception) -> CheckpointUnreadable:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).rstrip(".")
    return CheckpointUnreadable(f"The checkpoint {folder.parent.name}/{folder.name} cannot be used: {reason}.")


def read_state_json(folder: Path) -> dict[str, Any]:
    """The checked contents of state.json, `facts` as `RunFacts`. Raises `CheckpointUnreadable` or OSError."""
    with open_regular(folder / STATE, os.O_RDONLY) as file:
        text = file.read(MAX_STATE_BYTES + 1)
    if len(text) > MAX_STATE_BYTES:
        raise CheckpointUnreadable(f"{STATE} has more than {MAX_STATE_BYTES:,} bytes")
    try:
        written = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointUnreadable(f"{STATE} is damaged") from error
    if not isinstance(written, dict) or type(written.get("format")) is not int:
        raise CheckpointUnreadable(f"{STATE} is damaged")
    if written["format"] > FORMAT:
        raise CheckpointUnreadable("it was written by a newer version of this node pack")
    if not _is_sound(written):
        raise CheckpointUnreadable(f"{STATE} contradicts itself")
    return {**written, "facts": RunFacts.from_json(written["facts"])}


def _is_sound(written: dict[str, Any]) -> bool:
    losses, hashes = written.get("losses"), written.get("sha256")
    if not isinstance(losses, list) or not isinstance(hashes, dict) or not isinstance(written.get("facts"), dict):
        return False
    of_tensors = {name: hashes.get(name) for name in (ADAPTER, OPTIMIZER)}
    return (
        all(loss is None or _is_finite_number(loss) for loss in losses)
        and type(written.get("step")) is int
        and written["step"] == len(losses)
        and type(written.get("forgiven")) is int
        and _is_finite_number(written.get("seconds"))
        and hashes.get(STATE) == _sha256([_canonical({**written, "sha256": of_tensors})])
    )


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True).encode("utf-8", "surrogatepass")


def _is_finite_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def _read_optimizer(path: Path, adapter: Mapping[str, LoraWeights]) -> dict[str, Tensor]:
    """AdamW's tensors for exactly the matrices of the adapter; none before the first update."""
    expected: dict[str, TensorInfo] = {}
    for module, weights in adapter.items():
        for name, matrix in ((f"{module}.down", weights.down), (f"{module}.up", weights.up)):
            for entry, shape in (("step", ()), ("exp_avg", matrix.shape), ("exp_avg_sq", matrix.shape)):
                expected[f"{name}.{entry}"] = TensorInfo(tuple(shape), torch.float32)
    if read_header(path)[0] not in ({}, expected):
        raise CheckpointUnreadable(f"{path.name} does not belong to the adapter beside it")
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


def _sha256_of_file(path: Path, max_bytes: int) -> str:
    with open_regular(path, os.O_RDONLY) as file:
        if os.fstat(file.fileno()).st_size > max_bytes:
            raise CheckpointUnreadable(f"{path.name} is larger than the adapters of this run")
        return _sha256(iter(lambda: file.read(2**20), b""))
