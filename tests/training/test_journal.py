"""The journal: everything that was shown can be rebuilt from it, whatever happened to the file."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from ideogram4_lora_trainer.trainer_core.training.journal import JOURNAL, Journal, read_journal


def steps(folder: Path) -> list[tuple[int, Any]]:
    return [(event["step"], event["loss"]) for event in read_journal(folder) if event["event"] == "step"]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write("started", step=0, steps=3, facts={"dataset": "Kätzchen"})
    journal.write("step", step=1, loss=0.1 + 0.2, skipped=False)
    journal.write("step", step=2, loss=float("nan"), skipped=True)
    # Readable while it is being written: lines are not kept back.
    started, first, second = read_journal(tmp_path)
    assert started["facts"] == {"dataset": "Kätzchen"}
    assert first["loss"] == 0.1 + 0.2, "to the last digit"
    assert second["loss"] is None
    assert started["time"] <= first["time"] <= second["time"]


def test_steps_that_were_lost_and_done_again_count_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in (1, 2, 3, 4):
        journal.write("step", step=step, loss=float(step))
    journal.write("note", step=4, text="kept")
    journal.write("resumed", step=2)
    journal.write("step", step=3, loss=3.5)
    assert steps(tmp_path) == [(1, 1.0), (2, 2.0), (3, 3.5)]
    assert [event["event"] for event in read_journal(tmp_path)].count("note") == 1


def test_a_line_that_comes_late_takes_its_place(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step, loss in ((1, 1.0), (3, 3.0), (2, 2.0), (3, 3.5)):
        journal.write("step", step=step, loss=loss)
    assert steps(tmp_path) == [(1, 1.0), (2, 2.0), (3, 3.5)]


@pytest.mark.parametrize("torn", [b'{"event": "step", "st', b"\x00\x00", b"[1, 2]", b'{"event": 3}', b'{"step": 1}'])
def test_a_torn_line_costs_only_itself(tmp_path: Path, torn: bytes) -> None:
    first = Journal(tmp_path)
    first.write("step", step=1, loss=1.0)
    first.close()
    with open(tmp_path / JOURNAL, "ab") as file:
        file.write(torn)
    second = Journal(tmp_path)
    second.write("step", step=2, loss=2.0)
    assert steps(tmp_path) == [(1, 1.0), (2, 2.0)]


def test_no_journal_is_an_empty_one(tmp_path: Path) -> None:
    assert read_journal(tmp_path) == []


def test_a_full_disk_does_not_end_the_run_and_tears_no_later_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    real = journal._file

    class Full:
        def write(self, data: bytes) -> int:
            real.write(data[:5])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal, "_file", Full())
    assert not journal.write("step", step=1, loss=1.0)
    monkeypatch.setattr(journal, "_file", real)
    assert journal.write("step", step=2, loss=2.0)
    assert steps(tmp_path) == [(2, 2.0)]
