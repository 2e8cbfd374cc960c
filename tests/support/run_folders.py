"""Folders of runs, and a server with nothing but the routes that watch them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ideogram4_lora_trainer.server import runs
from ideogram4_lora_trainer.trainer_core.training.journal import Journal
from route_client import RouteClient, served

ORIGIN = {"node": "3:7", "workflow": "w-1"}
PNG = b"\x89PNG\r\n\x1a\n" + b"picture"


def runs_folder(parent: Path) -> Path:
    """The folder of runs; a file beside it must never be read or changed."""
    (parent / "secret.txt").write_text("outside")
    folder = parent / "runs"
    folder.mkdir()
    return folder


@contextlib.contextmanager
def watching(root: Path) -> Iterator[RouteClient]:
    """A server on the runs in `root`, which leaves alone what is beside it."""
    with served(functools.partial(runs.add_routes, folder=lambda: root)) as client:
        yield client
    assert (root.parent / "secret.txt").read_text() == "outside"
    assert sorted(path.name for path in root.parent.iterdir()) == ["runs", "secret.txt"]


def make_run(root: Path, name: str = "first_00001", *, steps: int = 3, of: int = 10) -> Path:
    """A run that has a checkpoint and has done `steps` steps."""
    folder = root / name
    (folder / "step_000000").mkdir(parents=True)
    (folder / "step_000000" / "state.json").touch()
    journal = Journal(folder)
    journal.write("started", step=0, steps=of, origin=ORIGIN)
    for step in range(1, steps + 1):
        journal.write("step", step=step, loss=1 / step)
    journal.close()
    return folder


def put(folder: Path, name: str, content: bytes) -> Path:
    """Write a file below a folder."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def journal_of(client: RouteClient, run: str, offset: int = 0) -> Any:
    """What the server tells of a run's journal from a byte on."""
    answer = client.get(f"/runs/{run}/journal?offset={offset}")
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"].startswith("application/json")
    return answer.json
