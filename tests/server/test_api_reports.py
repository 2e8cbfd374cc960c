"""What the HTTP API tells of a request: its log, why it failed, and the webhook."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
import uuid
from pathlib import Path
from typing import Any

import folder_paths
import pytest
from ideogram4_lora_trainer.server.api import failures, run_log, webhooks
from ideogram4_lora_trainer.server.api.run_log import RunLog, find_run_folder
from ideogram4_lora_trainer.server.api.store import Record, Store
from ideogram4_lora_trainer.server.api.webhooks import Webhooks
from ideogram4_lora_trainer.trainer_core.errors import MissingCaptions, NonFinite, RemoteRefused, SaveFailed
from ideogram4_lora_trainer.trainer_core.training.journal import JOURNAL, Journal

# ---- the log of a run ----------------------------------------------------------------------------------------


def write_run(journal: Journal, steps: int, first: int = 1) -> None:
    journal.write("started" if first == 1 else "resumed", step=first - 1, steps=steps)
    for step in range(first, steps + 1):
        journal.write("step", step=step, loss=1 / step, smoothed_loss=1 / step, seconds_left=float(steps - step))


@pytest.mark.parametrize("steps", [100, 1000, 40_000])
def test_a_log_stays_short_and_has_the_first_and_the_last_step(tmp_path: Path, steps: int) -> None:
    write_run(Journal(tmp_path), steps)
    log = RunLog(tmp_path)
    log.read()
    messages = [line["message"] for line in log.lines]
    assert len(messages) <= max(run_log.STEP_LINES, steps // run_log.MAX_UNTOLD_STEPS) + 3
    assert any(message.startswith("Step 1 of") for message in messages)
    assert messages[-1].startswith(f"Step {steps} of {steps}")
    assert (log.step, log.steps) == (steps, steps)


def test_read_in_pieces_it_is_the_same_log(tmp_path: Path) -> None:
    """However the journal grows under the reader, torn lines included."""
    whole = tmp_path / "whole"
    whole.mkdir()
    write_run(Journal(whole), 120)
    content = (whole / JOURNAL).read_bytes() + b"not json\n" + b'{"event": "note", "time": 5, "step": 7, "text": "x"}\n'
    content += b'{"event": "step"}\n' + b'{"event": "note", "time": 1e99, "step": 7, "text": "x"}\n' + b"[]\n"
    growing = tmp_path / "growing"
    growing.mkdir()
    log, seen = RunLog(growing), 0
    for end in range(0, len(content) + 1, 97):
        (growing / JOURNAL).write_bytes(content[:end])
        before = list(log.lines)
        log.read()
        assert log.lines[: len(before)] == before
        seen += len(log.lines) > len(before)
    (growing / JOURNAL).write_bytes(content)
    log.read()
    (whole / JOURNAL).write_bytes(content)
    at_once = RunLog(whole)
    at_once.read()
    assert log.lines == at_once.lines
    assert seen > 3


def test_paths_of_this_machine_are_not_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write("note", step=1, text=f"Saved in {folder_paths.get_output_directory()}/loras.")
    log = RunLog(tmp_path)
    log.read()
    assert [line["message"] for line in log.lines] == ["Saved in output/loras."]


def test_the_newest_run_of_a_name_is_found(tmp_path: Path) -> None:
    assert find_run_folder(tmp_path, "fal_a") is None
    for name in ("fal_a_00001", "fal_a_00002", "fal_ab_00003", "fal_a", "x_fal_a_00009"):
        (tmp_path / name).mkdir()
    assert find_run_folder(tmp_path, "fal_a") == tmp_path / "fal_a_00002"
    assert find_run_folder(tmp_path / "missing", "fal_a") is None


# ---- failures ------------------------------------------------------------------------------------------------


def outcome_of(error: BaseException) -> dict[str, Any]:
    """As ComfyUI's history has it."""
    kind = type(error)
    detail = {
        "exception_type": f"custom_nodes.x.{kind.__module__}.{kind.__qualname__}",
        "exception_message": str(error),
    }
    return {"status": {"status_str": "error", "messages": [["execution_error", detail]]}}


def test_errors_for_people_keep_their_words_and_their_code() -> None:
    told = failures.failure_of(outcome_of(MissingCaptions("a.png has no caption.")), {"missing_captions": "url"})
    assert told == {"status": 422, "code": "missing_captions", "message": "a.png has no caption.", "field": "url"}


def test_what_no_input_can_mend_is_not_called_the_callers_fault() -> None:
    told = [failures.failure_of(outcome_of(error), {}) for error in (SaveFailed("Full."), NonFinite("NaN."))]
    assert [(one["status"], one["code"]) for one in told] == [(507, "save_failed"), (500, "non_finite")]


@pytest.mark.parametrize(
    "error", [RuntimeError("/home/me/secret"), KeyError("x"), type("OutOfMemoryError", (RuntimeError,), {})("CUDA /x")]
)
def test_defects_show_nothing_of_this_machine(error: Exception) -> None:
    told = failures.failure_of(outcome_of(error), {})
    assert told["status"] == 500
    assert "/" not in told["message"]


@pytest.mark.parametrize("outcome", [{}, {"status": None}, {"status": {"messages": []}}, {"status": {}}])
def test_a_failure_without_a_reason_is_one(outcome: dict[str, Any]) -> None:
    assert failures.failure_of(outcome, {})["code"] == "internal_error"


# ---- webhooks ------------------------------------------------------------------------------------------------


def ended(store: Store, **values: Any) -> Record:
    hook = {"url": "https://hook.test/x", "attempts": 0, "next": 0.0, "done": False}
    made = Record(str(uuid.uuid4()), "a", {}, "https://here", server=store.server, state="succeeded", webhook=hook)
    return dataclasses.replace(made, **values)


def tell_all(store: Store, later: Record | None = None) -> None:
    """Until nobody is left who is to be told; `later` ends when the others are on their way."""

    async def answer(record: Record) -> dict[str, Any]:
        return {"made": record.id}

    async def run() -> None:
        hooks = Webhooks(store, answer)
        hooks.start()
        if later is not None:
            await asyncio.sleep(0.05)
            store.put(later)
            hooks.start()
        while hooks._tasks:
            await asyncio.gather(*hooks._tasks.values())

    asyncio.run(run())


def deliver(store: Store, monkeypatch: pytest.MonkeyPatch, answers: list[Any], pause_s: float = 0.0) -> list[Any]:
    """All that is sent until nothing is left to do; each answer is a status, or an error that is raised."""
    sent = []

    def post(url: str, body: bytes, *, timeout_s: float) -> int:
        sent.append((url, json.loads(body)))
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(webhooks, "post_json", post)
    monkeypatch.setattr(webhooks, "PAUSES_S", (pause_s,) * 4)

    tell_all(store)
    return sent


def test_a_webhook_is_sent_until_it_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    record = ended(store)
    store.put(record)
    failures = [500, 302, OSError("no route"), 204]
    sent = deliver(store, monkeypatch, failures)
    told = {"request_id": record.id, "gateway_request_id": record.id, "status": "OK", "payload": {"made": record.id}}
    assert sent == [(record.webhook["url"], told)] * 4
    assert store.find(record.id).webhook == {
        **record.webhook,
        "attempts": 4,
        "done": True,
        "next": pytest.approx(0, abs=4e9),
    }
    assert deliver(store, monkeypatch, []) == []


def test_it_is_given_up_some_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    record = ended(store, state="failed", error={"status": 422, "code": "x", "message": "Words.", "field": "steps"})
    store.put(record)
    sent = deliver(store, monkeypatch, [RemoteRefused("private")] * 5)
    assert len(sent) == 5
    assert sent[0][1]["error"] == "Words."
    assert sent[0][1]["payload"]["detail"] == [{"loc": ["body", "steps"], "msg": "Words.", "type": "x"}]
    assert store.find(record.id).webhook["done"]


def test_the_next_server_goes_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Store(tmp_path)
    record = ended(first, state="running", webhook={**ended(first).webhook, "attempts": 2})
    first.put(record)
    first._alive.close()
    (told,) = deliver(Store(tmp_path), monkeypatch, [200])
    assert told[1]["status"] == "ERROR"
    assert told[1]["payload"]["error_type"] == "server_restarted"


def test_what_is_still_open_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.put(ended(store, state="running"))
    store.put(ended(store, webhook={}))
    assert deliver(store, monkeypatch, []) == []


def test_a_slow_one_keeps_no_other_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    slow = ended(store, webhook={**ended(store).webhook, "url": "https://slow.test/"})
    quick = ended(store)
    store.put(slow)
    told_of_quick = threading.Event()

    def post(url: str, body: bytes, *, timeout_s: float) -> int:
        if url == slow.webhook["url"]:
            assert told_of_quick.wait(30)
        else:
            told_of_quick.set()
        return 200

    monkeypatch.setattr(webhooks, "post_json", post)

    tell_all(store, later=quick)
    assert store.find(slow.id).webhook["done"] and store.find(quick.id).webhook["done"]


def test_one_that_is_resumed_meanwhile_is_told_of_its_second_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    record = ended(store, state="cancelled", prompt_id="first")
    store.put(record)
    sent = []

    def post(url: str, body: bytes, *, timeout_s: float) -> int:
        sent.append(json.loads(body)["status"])
        if len(sent) == 1:  # while this is on its way
            store.put(dataclasses.replace(record, state="succeeded", prompt_id="second"))
        return 200

    monkeypatch.setattr(webhooks, "post_json", post)

    tell_all(store)
    assert sent == ["ERROR", "OK"]
    assert store.find(record.id).webhook["done"]
