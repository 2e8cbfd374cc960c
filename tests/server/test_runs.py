"""Watching runs over HTTP: the list of runs, their pictures and files, and what may be asked of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from ideogram4_lora_trainer.server import run_journal, runs
from ideogram4_lora_trainer.trainer_core.training.journal import JOURNAL, Journal
from ideogram4_lora_trainer.trainer_core.training.lock import RunLock
from route_client import RouteClient
from run_folders import ORIGIN, PNG, journal_of, make_run, put, runs_folder, watching


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return runs_folder(tmp_path)


@pytest.fixture
def client(root: Path) -> Iterator[RouteClient]:
    with watching(root) as client:
        yield client


# ---- the list -------------------------------------------------------------------------------------------------


def test_no_runs_is_an_empty_list(client: RouteClient, root: Path) -> None:
    assert client.get("/runs").json == {"runs": []}
    root.rmdir()
    assert client.get("/runs").json == {"runs": []}
    root.mkdir()


def test_runs_are_listed_with_where_they_are(client: RouteClient, root: Path) -> None:
    with_lock = RunLock(make_run(root, "running", steps=4))
    ended = Journal(make_run(root, "ended", steps=10))
    ended.write("finished", step=10)
    ended.write("memory", step=10, allocated_bytes=5)
    make_run(root, "crashed", steps=2)
    listed = {run["id"]: run for run in client.get("/runs").json["runs"]}
    states = {name: (run["state"], run["active"], run["step"], run["steps"]) for name, run in listed.items()}
    assert states == {
        "running": ("running", True, 4, 10),
        "ended": ("finished", False, 10, 10),
        "crashed": ("stopped", False, 2, 10),
    }
    assert all(run["origin"] == ORIGIN and run["time"] > 0 for run in listed.values())
    with_lock.close()
    assert not any(run["active"] for run in client.get("/runs").json["runs"])


def test_the_list_follows_a_resume(client: RouteClient, root: Path) -> None:
    journal = Journal(make_run(root, steps=8))
    journal.write("stopped", step=8, reason="failed")
    assert client.get("/runs").json["runs"][0]["step"] == 8
    journal.write("resumed", step=4, steps=20, origin={"node": "9", "workflow": ""})
    journal.write("step", step=2, loss=0.5)  # one that a crash had kept from the journal
    journal.write("step", step=5, loss=0.5)
    (run,) = client.get("/runs").json["runs"]
    assert (run["step"], run["steps"], run["origin"]["node"]) == (5, 20, "9")


def test_the_newest_fifty_are_listed(client: RouteClient, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MAX_RUNS", 3)
    for number in range(5):
        os.utime(make_run(root, f"run_{number}"), (number, number))
    assert [run["id"] for run in client.get("/runs").json["runs"]] == ["run_4", "run_3", "run_2"]


def test_the_start_is_found_however_far_back_it_is(
    client: RouteClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_journal, "PART_BYTES", 1000)
    make_run(root, steps=200, of=321)
    (run,) = client.get("/runs").json["runs"]
    assert (run["step"], run["steps"], run["origin"]) == (200, 321, ORIGIN)


@pytest.mark.parametrize(
    "line",
    [
        {"event": "started", "step": 0, "steps": "many", "origin": "here"},
        {"event": "started", "step": 0, "origin": {"node": {}, "workflow": "x" * 5000}},
        {"event": "started", "step": 0, "time": "now"},
    ],
)
def test_a_journal_that_says_nonsense_is_listed_all_the_same(client: RouteClient, root: Path, line: Any) -> None:
    folder = make_run(root)
    (folder / JOURNAL).write_text(json.dumps(line) + "\n")
    (run,) = client.get("/runs").json["runs"]
    assert (run["steps"], run["origin"], run["time"]) == (0, {"node": "", "workflow": ""}, 0)


# ---- pictures and files ---------------------------------------------------------------------------------------


def test_a_preview_is_a_picture_that_only_its_browser_keeps(client: RouteClient, root: Path) -> None:
    folder = make_run(root)
    put(folder, "previews/step_000100_02.png", PNG)
    answer = client.get(f"/runs/{folder.name}/previews/100/2")
    assert (answer.status, answer.body) == (200, PNG)
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"].startswith("private")
    assert client.get(f"/runs/{folder.name}/previews/100/1").status == 404


def test_what_is_named_as_a_picture_but_is_none_is_not_given_out(client: RouteClient, root: Path) -> None:
    folder = make_run(root)
    put(folder, "previews/step_000100_00.png", b"<script>alert(1)</script>")
    assert client.get(f"/runs/{folder.name}/previews/100/0").status == 404


@pytest.mark.parametrize(
    "place", ["-1/0", "0/-1", "1000000/0", "0/100", "0x1/0", "a/b", "%2e%2e/0", "1.5/0", "\u0661/0"]
)
def test_a_place_that_no_preview_has_is_refused(client: RouteClient, root: Path, place: str) -> None:
    run = make_run(root).name
    assert client.get(f"/runs/{run}/previews/{quote(place, safe='/%')}").status == 404


@pytest.mark.parametrize("name", list(runs.FILES))
def test_files_of_the_list_are_given_out(client: RouteClient, root: Path, name: str) -> None:
    folder = make_run(root)
    assert client.get(f"/runs/{folder.name}/files/{name}").status == 404
    assert journal_of(client, folder.name)["files"] == []
    put(folder, name, b"content")
    answer = client.get(f"/runs/{folder.name}/files/{name}")
    assert (answer.status, answer.body) == (200, b"content")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"].startswith("private")
    assert journal_of(client, folder.name)["files"] == [name]


# ---- requests -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["save", "preview", "stop"])
def test_a_run_that_is_trained_can_be_asked(client: RouteClient, root: Path, what: str) -> None:
    folder = make_run(root)
    refused = client.post(f"/runs/{folder.name}/requests", {"request": what})
    assert (refused.status, refused.error["code"]) == (409, "not_running")
    assert folder.name in refused.error["message"]
    lock = RunLock(folder)
    assert client.post(f"/runs/{folder.name}/requests", {"request": what}).json == {"request": what}
    assert [path.name for path in folder.glob("*.request")] == [f"{what}.request"]
    lock.close()


NO_REQUESTS = [{}, {"request": "delete"}, {"request": None}, {"request": ["save"]}, {"request": "../save"}, [1]]


@pytest.mark.parametrize("body", NO_REQUESTS)
def test_nothing_else_can_be_asked(client: RouteClient, root: Path, body: Any) -> None:
    folder = make_run(root)
    lock = RunLock(folder)
    assert client.post(f"/runs/{folder.name}/requests", body).status == 400
    assert not list(folder.glob("*.request"))
    lock.close()


def test_a_request_changes_nothing_by_get_or_as_a_form(client: RouteClient, root: Path) -> None:
    folder = make_run(root)
    lock = RunLock(folder)
    assert client.get(f"/runs/{folder.name}/requests").status == 405
    form = client.ask("POST", f"/runs/{folder.name}/requests", b"request=stop", Content_Type="text/plain")
    assert form.status == 415
    assert not list(folder.glob("*.request"))
    lock.close()
