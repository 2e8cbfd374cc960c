"""Two hundred times kill -9 at a random moment: nothing torn, nothing that cannot be gone on with, nothing changed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.training import checkpoints, loop
from ideogram4_lora_trainer.trainer_core.training.journal import read_journal
from ideogram4_lora_trainer.trainer_core.training.runs import list_runs
from networks import place_under, training_data

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked, which this system cannot")

KILLS = 200
LONGEST_LIFE_S = 0.5
SETTINGS = TrainSettings(
    steps=10, rank=2, learning_rate=1e-3, gradient_accumulation=2, checkpoint_every=1, keep_checkpoints=2
)


@pytest.fixture(scope="module")
def train(tiny_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """Train in a folder, going on with the run that is there."""
    patcher = tiny_model("bf16")
    data = training_data(tmp_path_factory.mktemp("cache"), patcher, count=5, size=(64, 64), lengths=(5, 9))

    def run(folder: Path) -> None:
        resume = (list_runs(folder / "runs") or [""])[0]
        with torch.inference_mode():
            loop.train(patcher, data, SETTINGS, place_under(folder, resume=resume))

    return run


def in_a_process(work: Callable[[], None]) -> int:
    """Do `work` in a child process and return its id. It ends with 0, or 1 after an exception."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def ended_within(pid: int, seconds: float) -> bool:
    """Whether the child ended by itself, which has to be well, or else it is killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, "the run could not go on"
            return True
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == 0


def check_all_is_whole(folder: Path) -> int:
    """Every checkpoint that can be seen opens; returns the number of steps that are safe."""
    if not (runs := list_runs(folder / "runs")):
        return 0
    path = folder / "runs" / runs[0]
    newest, *_ = [checkpoints.read_checkpoint(checkpoint) for checkpoint in checkpoints.list_checkpoints(path)]
    steps = [event["step"] for event in read_journal(path) if event["event"] == "step"]
    assert steps == list(range(1, len(steps) + 1)), "the journal can be read and nothing is missing in it"
    return newest.state.step


def result(folder: Path) -> Any:
    (run,) = list_runs(folder / "runs")
    newest = checkpoints.list_checkpoints(folder / "runs" / run)[0]
    state = checkpoints.read_state_json(newest)
    files = [(newest / name).read_bytes() for name in (checkpoints.ADAPTER, checkpoints.OPTIMIZER)]
    return state["step"], state["losses"], files


def test_kill_at_random_moments(train: Callable[[Path], None], tmp_path: Path) -> None:
    train(tmp_path / "undisturbed")
    expected = result(tmp_path / "undisturbed")

    draw = random.Random(3)
    kills = finished = 0
    killed_at: set[int] = set()
    while kills < KILLS:
        folder = tmp_path / f"run {finished}"
        if ended_within(in_a_process(lambda folder=folder: train(folder)), draw.uniform(0.0, LONGEST_LIFE_S)):
            assert result(folder) == expected
            finished += 1
        else:
            kills += 1
            killed_at.add(check_all_is_whole(folder))
    train(folder)
    assert result(folder) == expected
    assert finished >= 3, "the kills left no run alive: give each process more time"
    assert len(killed_at) >= 8, "the kills did not spread over the run"
