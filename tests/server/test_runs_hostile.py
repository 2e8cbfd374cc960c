"""Runs over HTTP for clients and run folders that mean harm: nothing outside of a run is read, nothing is changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ideogram4_lora_trainer.server import runs
from ideogram4_lora_trainer.trainer_core.training.lock import RunLock
from route_client import RouteClient
from run_folders import PNG, journal_of, make_run, put, runs_folder, watching


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return runs_folder(tmp_path)


@pytest.fixture
def client(root: Path) -> Iterator[RouteClient]:
    with watching(root) as client:
        yield client


HOSTILE_IDS = [
    "..", ".", "%2e%2e", "..%2fruns%2ffirst_00001", "first_00001%2f..%2ffirst_00001", "%2ffirst_00001", ".hidden",
    "first_00001%00", ".%2ffirst_00001", "first_00001%5c", "FIRST_00001", "first_00001%20", "gone", "%ff", "a" * 5000,
    "link", "no_checkpoint", "*", "~", "con", "c:", "%EF%BC%8E%EF%BC%8E", "first_00001;x", "first_00001%0d%0aX-A:%20b",
]  # fmt: skip


@pytest.mark.parametrize("run", HOSTILE_IDS)
@pytest.mark.parametrize("what", ["journal", "previews/0/0", "files/loss.csv", "requests"])
def test_what_is_no_run_is_never_opened(client: RouteClient, root: Path, run: str, what: str) -> None:
    folder = make_run(root)
    put(folder, "loss.csv", b"step")
    shutil.copytree(folder, root / ".hidden")
    (root / "no_checkpoint").mkdir()
    put(root / "no_checkpoint", "loss.csv", b"step")
    if os.name != "nt":
        (root / "link").symlink_to(folder)
    path = f"/runs/{run}/{what}"
    answer = client.post(path, {"request": "save"}) if what == "requests" else client.get(path)
    assert answer.status in (400, 404), answer.body
    assert str(root).encode() not in answer.body
    assert "X-A" not in answer.headers
    assert not list(root.rglob("*.request"))


def test_a_run_that_is_deleted_meanwhile_is_said_to_be_gone(client: RouteClient, root: Path) -> None:
    folder = make_run(root)
    offset = journal_of(client, folder.name)["offset"]
    shutil.rmtree(folder)
    answer = client.get(f"/runs/{folder.name}/journal?offset={offset}")
    assert (answer.status, answer.error["code"]) == (404, "no_such_run")
    assert client.get("/runs").json == {"runs": []}


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}]
)
def test_pages_of_other_sites_get_nothing(client: RouteClient, root: Path, headers: dict[str, str]) -> None:
    folder = make_run(root)
    put(folder, "loss.csv", b"content")
    with_lock = RunLock(folder)
    for path in ("/runs", f"/runs/{folder.name}/journal", f"/runs/{folder.name}/files/loss.csv"):
        assert client.get(path, **headers).status == 403
    assert client.post(f"/runs/{folder.name}/requests", {"request": "stop"}, **headers).status == 403
    assert not list(folder.glob("*.request"))
    with_lock.close()


@pytest.mark.parametrize(
    "name",
    [
        "journal.jsonl",
        "run.lock",
        "state.json",
        "step_000000%2fstate.json",
        "..%2f..%2fsecret.txt",
        "%2e%2e",
        "..%5c..%5csecret.txt",
        "loss.csv%00",
        "LOSS.CSV",
        "loss.csv%2f",
        "%2fetc%2fpasswd",
    ],
)
def test_names_outside_of_the_list_are_refused(client: RouteClient, root: Path, name: str) -> None:
    folder = make_run(root)
    put(folder, "loss.csv", b"content")
    assert client.get(f"/runs/{folder.name}/files/{name}").status in (400, 404)


@pytest.mark.skipif(os.name == "nt", reason="needs links and pipes")
@pytest.mark.parametrize("kind", ["file link", "folder link", "link within", "pipe"])
def test_a_link_or_a_pipe_is_given_out_as_nothing(client: RouteClient, root: Path, kind: str) -> None:
    folder = make_run(root)
    outside = put(root, "outside.png", PNG)
    if kind == "folder link":
        (root / "elsewhere").mkdir()
        put(root / "elsewhere", "step_000000_00.png", PNG)
        (folder / "previews").symlink_to(root / "elsewhere")
    else:
        (folder / "previews").mkdir()
        path = folder / "previews" / "step_000000_00.png"
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(outside if kind == "file link" else put(folder, "run.png", PNG))
    assert client.get(f"/runs/{folder.name}/previews/0/0").status == 404


def test_a_file_without_bound_is_not_read(client: RouteClient, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MAX_FILE_BYTES", 100)
    folder = make_run(root)
    put(folder, "loss.csv", b"x" * 101)
    assert client.get(f"/runs/{folder.name}/files/loss.csv").status == 404
