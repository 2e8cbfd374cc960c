"""Requests on disk: what is left of them when a server ends, is killed, or shares its folder with another."""

from __future__ import annotations

import dataclasses
import json
import uuid
from pathlib import Path

import pytest
from ideogram4_lora_trainer.server.api import store as store_module
from ideogram4_lora_trainer.server.api.store import Record, Store
from ideogram4_lora_trainer.trainer_core.errors import SaveFailed


def record(store: Store, **values: object) -> Record:
    made = Record(id=str(uuid.uuid4()), endpoint="a", graph={"1": {}}, base="https://here", server=store.server)
    return dataclasses.replace(made, **values)


def end(store: Store) -> None:
    """As the system does when a process is killed."""
    store._alive.close()


def test_what_is_put_is_found_by_the_next_server(tmp_path: Path) -> None:
    first = Store(tmp_path)
    done = record(first, state="succeeded", payload={"a": [{"$file": 0}]}, notes=("one",), files=({"filename": "x"},))
    first.put(done)
    end(first)
    found = Store(tmp_path).find(done.id)
    assert found is not None
    assert dataclasses.replace(found, server=done.server) == done


def test_what_was_open_is_told_to_be_interrupted(tmp_path: Path) -> None:
    first = Store(tmp_path)
    requests = [record(first, state=state) for state in ("queued", "running", "succeeded", "cancelled", "failed")]
    for one in requests:
        first.put(one)
    end(first)
    second = Store(tmp_path)
    states = [second.find(one.id).state for one in requests]
    assert states == ["interrupted", "interrupted", "succeeded", "cancelled", "failed"]
    end(second)
    third = Store(tmp_path)
    assert [third.find(one.id) for one in requests] == [
        dataclasses.replace(second.find(one.id), server=third.server) for one in requests
    ], "told once, it stays as it was told"


def test_what_another_server_works_on_is_left_to_it(tmp_path: Path) -> None:
    first = Store(tmp_path)
    open_one = record(first, state="running")
    first.put(open_one)
    second = Store(tmp_path)
    assert second.find(open_one.id) == open_one
    first.put(dataclasses.replace(open_one, state="succeeded"))
    assert second.find(open_one.id).state == "succeeded"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"id": "x"}', b'{"id": 5, "notes": [], "files": []}'],
    ids=repr,
)
def test_a_damaged_file_is_left_alone_and_harms_nothing(tmp_path: Path, content: bytes) -> None:
    first = Store(tmp_path)
    good = record(first)
    first.put(good)
    damaged = tmp_path / "requests" / f"{uuid.uuid4()}.json"
    damaged.write_bytes(content)
    end(first)
    assert [one.id for one in Store(tmp_path).all()] == [good.id]
    assert damaged.read_bytes() == content


def test_a_file_under_a_foreign_name_is_not_taken(tmp_path: Path) -> None:
    first = Store(tmp_path)
    made = record(first)
    first.put(made)
    path = tmp_path / "requests" / f"{made.id}.json"
    path.with_name(f"{uuid.uuid4()}.json").write_bytes(path.read_bytes())
    (tmp_path / "requests" / "x.json").write_text(json.dumps({**dataclasses.asdict(made), "id": "../../x"}))
    assert [one.id for one in Store(tmp_path).all()] == [made.id]


def test_the_oldest_that_ended_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_RECORDS", 3)
    store = Store(tmp_path)
    ended = [record(store, state="succeeded", ended=float(time)) for time in range(4)]
    waiting = record(store, state="queued")
    for one in (*ended, waiting):
        store.put(one)
    store.prune()
    assert {one.id for one in store.all()} == {ended[2].id, ended[3].id, waiting.id}
    assert len(list((tmp_path / "requests").glob("*.json"))) == 3


def test_servers_that_are_gone_leave_nothing(tmp_path: Path) -> None:
    for _ in range(3):
        end(Store(tmp_path))
    assert len(list((tmp_path / "servers").iterdir())) == 1
    Store(tmp_path)
    assert len(list((tmp_path / "servers").iterdir())) == 1


def test_what_a_newer_version_wrote_is_left_alone(tmp_path: Path) -> None:
    first = Store(tmp_path)
    made = record(first, state="queued")
    first.put(made)
    path = tmp_path / "requests" / f"{made.id}.json"
    content = json.dumps({**json.loads(path.read_text()), "new_field": 1})
    path.write_text(content)
    end(first)
    assert Store(tmp_path).all() == []
    assert path.read_text() == content


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(SaveFailed):
        store.put(record(store, base="https://\ud800"))
    assert store.all() == []
