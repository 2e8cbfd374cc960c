"""The folder of all runs: which there are, and where a new one goes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from ..errors import CheckpointUnreadable, RunNotFound
from ..lora_files import LoraWeights
from ..paths import NameRejected, resolve_inside, shown, storable_parts
from ..storage import place_new_folder, remove_leftovers
from .checkpoints import checkpoint_files, checkpoint_name, list_checkpoints, read_state_json, subfolders
from .facts import RunFacts, what_changed
from .run_file import RUN_FILE, RunFile
from .state import RunState

_TWINS_LOOKED_AT = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunPlace:
    """Where a run is kept and what it begins with."""

    runs_folder: Path
    loras_folder: Path
    """Gets the LoRA of a run that ends early."""
    name: str = "ideogram4"
    """Of a new run; a number is added."""
    resume: str = ""
    """Name of the run to go on with, "" for a new one."""
    continue_anyway: bool = False
    """Go on although data, settings or model have changed."""
    start_modules: dict[str, LoraWeights] = dataclasses.field(default_factory=dict)
    """A LoRA that a new run begins with, by module path."""
    start_lora: str = ""
    """Name of its file."""
    start_lora_file: str = ""
    """Its full path, for run.json."""
    origin: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Which node of which workflow trains it, for whoever shows the run: `node` and `workflow`."""


def list_runs(runs_folder: Path) -> list[str]:
    """Names of the runs that can be gone on with, the one that was saved last first.

    What cannot be read, or goes away meanwhile, is left out: a node's list of choices must not fail for it.
    """
    saved: list[tuple[float, str]] = []
    for path in subfolders(runs_folder):
        if list_checkpoints(path):
            with contextlib.suppress(OSError):
                saved.append((path.stat().st_mtime, path.name))
    return [name for _, name in sorted(saved, reverse=True)]


def find_run(runs_folder: Path, name: str) -> Path:
    """The folder of a run. Raises `RunNotFound` or `PathOutsideRoot`."""
    folder = resolve_inside(runs_folder, name)
    hidden = folder.name.startswith(".")
    if hidden or folder.parent != resolve_inside(runs_folder, "") or not list_checkpoints(folder):
        known = list_runs(runs_folder)
        raise RunNotFound(
            f"There is no run {shown(name)} in the {runs_folder.name} folder. "
            + (f"Choose one of: {', '.join(known[:10])}." if known else "It holds none yet: start a new run.")
        )
    return folder


def check_name(name: str) -> None:
    """Raise `NameRejected` for what cannot name the folder of a new run."""
    if storable_parts(name) != (name,):
        raise NameRejected(
            f"{shown(name)} cannot name a run: it leads into another folder. Use a name without slashes."
        )


def sweep(runs_folder: Path) -> None:
    """Delete what crashed saves left in any run, once it is surely not being written any more."""
    for folder in (runs_folder, *subfolders(runs_folder)):
        remove_leftovers(folder)


def create_run(place: RunPlace, state: RunState, facts: RunFacts, run_file: RunFile | None) -> Path:
    """Make the folder of a new run together with its first checkpoint, and return the latter. Raises `SaveFailed`."""
    step = checkpoint_name(state.step)
    files = {f"{step}/{name}": pieces for name, pieces in checkpoint_files(state, facts).items()}
    if run_file:
        files[RUN_FILE] = [run_file.to_bytes()]
    return place_new_folder(place.runs_folder, _unused_name(place.runs_folder, place.name), files) / step


def _unused_name(runs_folder: Path, name: str) -> str:
    """`name_00001` with the first number that is free."""
    taken = {path.name for path in runs_folder.iterdir()} if runs_folder.is_dir() else set()
    number = 1
    while f"{name}_{number:05}" in taken:
        number += 1
    return f"{name}_{number:05}"


def unfinished_twin(runs_folder: Path, facts: RunFacts) -> str:
    """Words about a run of the same data and settings that was not finished, "" if there is none."""
    for name in list_runs(runs_folder)[:_TWINS_LOOKED_AT]:
        with contextlib.suppress(CheckpointUnreadable, OSError, IndexError):
            written = read_state_json(list_checkpoints(runs_folder / name)[0])
            before, step = written["facts"], written["step"]
            changes = what_changed(before, facts, step=step)
            same = not changes.forbidden + changes.questionable and before.start_lora == facts.start_lora
            if same and 0 < step < before.settings.steps:
                return (
                    f"{name} has the same data and settings and is at step {step}. This is a new run; to go "
                    f"on with that one instead, cancel and choose {name} under resume."
                )
    return ""
