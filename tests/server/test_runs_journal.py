"""The journal of a run over HTTP: in parts that add up, whatever has happened to the file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from ideogram4_lora_trainer.server import run_journal
from ideogram4_lora_trainer.trainer_core.training.journal import JOURNAL, Journal
from route_client import RouteClient
from run_folders import journal_of, make_run, runs_folder, watching


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return runs_folder(tmp_path)


@pytest.fixture
def client(root: Path) -> Iterator[RouteClient]:
    with watching(root) as client:
        yield client


def test_the_journal_comes_in_parts_that_add_up(
    client: RouteClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(root, steps=50)
    monkeypatch.setattr(run_journal, "PART_BYTES", 300)
    lines, offset, more = [], 0, True
    while more:
        part = journal_of(client, folder.name, offset)
        assert part["lines"] and part["offset"] > offset
        lines += part["lines"]
        offset, more = part["offset"], part["more"]
    assert lines == [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    assert offset == (folder / JOURNAL).stat().st_size
    assert journal_of(client, folder.name, offset)["lines"] == []


def test_only_whole_lines_are_told(client: RouteClient, root: Path) -> None:
    folder = make_run(root)
    whole = journal_of(client, folder.name)
    with open(folder / JOURNAL, "ab") as file:
        file.write(b'{"event": "step", "step": 4')
        file.flush()
        torn = journal_of(client, folder.name)
        assert (torn["lines"], torn["offset"], torn["more"]) == (whole["lines"], whole["offset"], False)
        file.write(b', "loss": 0.25}\n')
    (line,) = journal_of(client, folder.name, whole["offset"])["lines"]
    assert line == {"event": "step", "step": 4, "loss": 0.25}


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[1]",
        b'"text"',
        b"null",
        b'{"event": "step"}',
        b'{"event": 3, "step": 3}',
        b'{"event": "step", "step": true}',
        b'{"event": "step", "step": 1, "loss": NaN}',
        b'{"event": "step", "step": 1, "loss": -Infinity}',
        b'{"event": "step", "step": 1, "text": "\xff"}',
        b'{"event": "step", "step": 1, "text": "\x00"}',
        '{"event": "step", "step": 1}'.encode("utf-16"),
        b'{"event": "step", "step": 1, "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"event": "step", "step": 1' + b"1" * 5000 + b"}",
    ],
)
def test_lines_that_no_page_could_read_are_left_out(client: RouteClient, root: Path, line: bytes) -> None:
    folder = make_run(root)
    before = journal_of(client, folder.name)["lines"]
    with open(folder / JOURNAL, "ab") as file:
        file.write(line + b'\n{"event": "note", "step": 4, "text": "after \\ud800"}\n')
    answer = client.get(f"/runs/{folder.name}/journal")
    told = json.loads(answer.body, parse_constant=pytest.fail)
    assert told["lines"][: len(before)] == before
    assert [event["event"] for event in told["lines"][len(before) :]] == ["note"]
    assert client.get("/runs").status == 200


def test_a_line_without_end_does_not_hold_up_the_rest(
    client: RouteClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(root)
    monkeypatch.setattr(run_journal, "PART_BYTES", 1000)
    (folder / JOURNAL).write_bytes(b"x" * 5500 + b'\n{"event": "note", "step": 1, "text": ""}\n')
    lines, offset, more = [], 0, True
    for _ in range(10):
        part = journal_of(client, folder.name, offset)
        lines += part["lines"]
        assert part["offset"] > offset or not part["more"]
        offset, more = part["offset"], part["more"]
    assert [line["event"] for line in lines] == ["note"] and not more


def test_a_journal_begun_anew_is_read_from_its_beginning(client: RouteClient, root: Path) -> None:
    folder = make_run(root, steps=9)
    before = journal_of(client, folder.name)
    shutil.rmtree(folder)
    make_run(root, steps=1)
    shorter = journal_of(client, folder.name, before["offset"])
    assert (shorter["offset"], shorter["lines"], shorter["more"]) == (0, [], True)
    journal = Journal(folder)
    for step in range(2, 20):
        journal.write("step", step=step, loss=0.0)
    assert journal_of(client, folder.name, before["offset"])["began"] != before["began"]


@pytest.mark.parametrize("offset", ["-1", "1.5", "x", "", "1e3", "9" * 16, "\u0663", "0x10", "1 "])
def test_an_offset_that_is_none_is_refused(client: RouteClient, root: Path, offset: str) -> None:
    run = make_run(root).name
    assert client.get(f"/runs/{run}/journal?offset={quote(offset)}").status == 400


def test_a_huge_offset_is_answered_with_the_beginning(client: RouteClient, root: Path) -> None:
    told = journal_of(client, make_run(root).name, 10**14)
    assert (told["lines"], told["offset"]) == ([], 0)


@pytest.mark.skipif(os.name == "nt", reason="needs links and pipes")
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "missing"])
def test_a_journal_that_is_no_file_is_an_empty_one(client: RouteClient, root: Path, kind: str) -> None:
    path = make_run(root) / JOURNAL
    path.unlink()
    if kind == "link":
        path.symlink_to(root.parent / "secret.txt")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    told = journal_of(client, path.parent.name)
    assert (told["lines"], told["offset"], told["more"]) == ([], 0, False)
    (run,) = client.get("/runs").json["runs"]
    assert (run["step"], run["state"]) == (0, "stopped")
