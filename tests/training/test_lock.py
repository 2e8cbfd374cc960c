"""The lock of a run: who trains it, and who only looks."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from ideogram4_lora_trainer.trainer_core.errors import RunInUse
from ideogram4_lora_trainer.trainer_core.training.lock import RunLock, is_locked


def test_a_lock_is_seen_by_any_number_of_onlookers(tmp_path: Path) -> None:
    assert not is_locked(tmp_path), "without a lock file"
    lock = RunLock(tmp_path)
    assert all(is_locked(tmp_path) for _ in range(3))
    with pytest.raises(RunInUse):
        RunLock(tmp_path)
    lock.close()
    assert not is_locked(tmp_path)
    assert not is_locked(tmp_path / "gone")


def test_looking_never_keeps_a_run_from_starting(tmp_path: Path) -> None:
    RunLock(tmp_path).close()
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.001):
            is_locked(tmp_path)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            RunLock(tmp_path).close()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.skipif(os.name == "nt", reason="needs links and pipes")
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_lock_that_is_no_file_locks_nothing(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "other"
    target.touch()
    path = tmp_path / "run.lock"
    if kind == "link":
        path.symlink_to(target)
    else:
        os.mkfifo(path)
    assert not is_locked(tmp_path)
