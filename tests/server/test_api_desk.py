"""What the desk makes of what ComfyUI's queue and history say; both are played here, moment by moment."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest
from ideogram4_lora_trainer.server.api import calls, prompts
from ideogram4_lora_trainer.server.api import desk as desk_module
from ideogram4_lora_trainer.server.api.calls import Calls
from ideogram4_lora_trainer.server.api.desk import Desk
from ideogram4_lora_trainer.server.api.endpoints import Context, Endpoint, Job, Made
from ideogram4_lora_trainer.server.api.store import Record, Store
from ideogram4_lora_trainer.server.guard import Refusal
from ideogram4_lora_trainer.trainer_core.errors import SaveFailed

SUCCESS = {"status": {"status_str": "success", "messages": []}, "outputs": {}}


class Wishes(pydantic.BaseModel):
    pass


class ComfyUI:
    """Its queue and its history."""

    def __init__(self) -> None:
        self.queued: list[str] = []
        self.running = ""
        self.history: dict[str, Any] = {}
        self.graphs: list[dict[str, Any]] = []
        self.refuses = False

    async def put(self, graph: dict[str, Any], prompt_id: str) -> None:
        await asyncio.sleep(0)
        if self.refuses:
            raise Refusal(422, "graph_rejected", "Not accepted.")
        self.graphs.append(copy.deepcopy(graph))
        self.queued.append(prompt_id)

    def place(self, prompt_id: str) -> int | None:
        if prompt_id == self.running:
            return -1
        return self.queued.index(prompt_id) + bool(self.running) if prompt_id in self.queued else None

    def outcome(self, prompt_id: str) -> Any:
        return self.history.get(prompt_id)

    def take_out(self, prompt_id: str) -> bool:
        if prompt_id in self.queued:
            self.queued.remove(prompt_id)
            return True
        return prompt_id == self.running

    def at_work(self, prompt_id: str) -> tuple[str, int, int]:
        return ("1", 3, 8) if prompt_id == self.running else ("", 0, 0)

    def begin(self) -> str:
        self.running = self.queued.pop(0)
        return self.running

    def end(self, outcome: Any = None) -> None:
        if outcome is not None:
            self.history[self.running] = outcome
        self.running = ""


@pytest.fixture
def comfyui(monkeypatch: pytest.MonkeyPatch) -> ComfyUI:
    played = ComfyUI()
    for name in ("put", "place", "outcome", "take_out", "at_work"):
        monkeypatch.setattr(prompts, name, getattr(played, name))
    monkeypatch.setattr(desk_module, "LOOK_INTERVAL_S", 0.001)
    return played


def open_desk(folder: Path, result: Callable[..., Made] | None = None) -> Desk:
    async def build(_: Wishes, context: Context) -> Job:
        dataset = {"class_type": "Ideogram4LoadDataset", "inputs": {}}
        graph = {"1": dataset, "2": {"class_type": "Ideogram4TrainLoRA", "inputs": {"resume": "new run"}}}
        return Job(graph, run_name=f"run {context.request_id[:8]}")

    made = result or (lambda record, outputs: Made([], {"made": True}))
    endpoint = Endpoint("a", "", Wishes, Wishes, build, made, faults={"missing_captions": "url"})
    return Desk(Store(folder), {"a": endpoint}, lambda: folder / "runs")


def play(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 30))


async def until(desk: Desk, record: Record, *states: str) -> Record:
    while (found := desk.find(record.id)).state not in states:
        await asyncio.sleep(0.001)
    return found


async def submit(desk: Desk) -> Record:
    return await desk.submit("a", Wishes(), "https://here")


def test_from_the_queue_to_the_end(comfyui: ComfyUI, tmp_path: Path) -> None:
    async def scene() -> None:
        desk = open_desk(tmp_path)
        first, second = await submit(desk), await submit(desk)
        assert [desk.queue_position(one) for one in (first, second)] == [0, 1]
        comfyui.begin()
        running = await until(desk, first, "running")
        assert running.started > 0
        assert [stage for _, stage in running.stages] == ["Reading the dataset."]
        assert (await desk.progress(running), await desk.progress(second)) == ((3, 8), (0, 0))
        assert desk.queue_position(second) == 1
        comfyui.end(SUCCESS)
        ended = await until(desk, first, "succeeded")
        assert ended.payload == {"made": True}
        assert Store(tmp_path).find(first.id).state == "succeeded"
        assert (await Calls().wait(desk, first.id, lambda: True, "")).state == "succeeded"
        assert desk.find(second.id).state == "queued"

    play(scene)


def test_a_result_that_comes_a_moment_late_is_no_loss(comfyui: ComfyUI, tmp_path: Path) -> None:
    async def scene() -> None:
        desk = open_desk(tmp_path)
        record = await submit(desk)
        prompt = comfyui.begin()
        await until(desk, record, "running")
        outcomes = iter([None, SUCCESS])
        comfyui.outcome = None
        prompts.outcome = lambda prompt_id: next(outcomes) if prompt_id == prompt else None
        comfyui.end()
        assert (await until(desk, record, "succeeded", "failed", "cancelled")).state == "succeeded"

    play(scene)


@pytest.mark.parametrize(
    ("begun", "state", "code"), [(False, "cancelled", "client_cancelled"), (True, "failed", "result_lost")]
)
def test_what_is_in_no_place_any_more_is_told(
    comfyui: ComfyUI, tmp_path: Path, begun: bool, state: str, code: str
) -> None:
    async def scene() -> None:
        desk = open_desk(tmp_path)
        record = await submit(desk)
        if begun:
            comfyui.begin()
            await until(desk, record, "running")
            comfyui.end()
        else:
            comfyui.queued.clear()
        ended = await until(desk, record, "succeeded", "failed", "cancelled")
        assert (ended.state, ended.error["code"]) == (state, code)

    play(scene)


def test_a_result_that_cannot_be_read_ends_its_request_alone(comfyui: ComfyUI, tmp_path: Path) -> None:
    def result(record: Record, outputs: Any) -> Made:
        raise KeyError("files")

    async def scene() -> None:
        desk = open_desk(tmp_path, result)
        record, other = await submit(desk), await submit(desk)
        comfyui.begin()
        comfyui.end(SUCCESS)
        comfyui.history = dict.fromkeys([record.prompt_id], SUCCESS)
        assert (await until(desk, record, "failed")).error["code"] == "result_lost"
        assert await desk.cancel(other.id)

    play(scene)


def test_what_comfyui_refuses_leaves_nothing(comfyui: ComfyUI, tmp_path: Path) -> None:
    async def scene() -> None:
        desk = open_desk(tmp_path)
        comfyui.refuses = True
        with pytest.raises(Refusal):
            await submit(desk)
        assert desk.store.all() == []
        assert list((tmp_path / "requests").iterdir()) == []

    play(scene)


def test_a_full_disk_leaves_nothing_that_waits_for_ever(
    comfyui: ComfyUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        desk = open_desk(tmp_path)
        cancelled = await submit(desk)
        await desk.cancel(cancelled.id)
        with monkeypatch.context() as full:
            full.setattr(desk_module.Store, "_write", refuse)
            with pytest.raises(SaveFailed):
                await submit(desk)
            with pytest.raises(SaveFailed):
                await desk.resume(desk.find(cancelled.id))
        assert [(one.id, one.state) for one in desk.store.all()] == [(cancelled.id, "cancelled")]
        assert comfyui.queued == []
        assert (await desk.resume(desk.find(cancelled.id))).state == "queued"

    def refuse(*_: Any) -> None:
        raise SaveFailed("The disk is full.")

    play(scene)


def test_a_disk_that_fills_up_later_loses_no_end(
    comfyui: ComfyUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise SaveFailed("The disk is full.")

    async def scene() -> None:
        desk = open_desk(tmp_path)
        record = await submit(desk)
        monkeypatch.setattr(desk_module.Store, "_write", refuse)
        comfyui.begin()
        comfyui.end(SUCCESS)
        comfyui.history = {record.prompt_id: SUCCESS}
        await until(desk, record, "succeeded")

    play(scene)


def test_what_a_full_disk_did_not_take_is_resumed_and_written_later(
    comfyui: ComfyUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise SaveFailed("The disk is full.")

    async def scene() -> None:
        desk = open_desk(tmp_path)
        record, other = await submit(desk), await submit(desk)
        with monkeypatch.context() as full:
            full.setattr(desk_module.Store, "_write", refuse)
            await desk.cancel(record.id)
            await desk.cancel(other.id)
        assert desk.store.read(record.id).state == "queued", "what the disk has"
        assert (await desk.resume(desk.find(record.id))).state == "queued"
        assert desk.store.read(other.id).state == "cancelled", "there was room again"

    play(scene)


def test_there_is_room_for_so_many(comfyui: ComfyUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "MAX_OPEN", 3)

    async def scene() -> None:
        desk = open_desk(tmp_path)
        ended = await submit(desk)
        await desk.cancel(ended.id)
        tried = await asyncio.gather(*(submit(desk) for _ in range(10)), return_exceptions=True)
        assert sum(isinstance(one, Record) for one in tried) == 3
        assert {one.code for one in tried if isinstance(one, Refusal)} == {"queue_full"}
        with pytest.raises(Refusal, match="wait already"):
            await desk.resume(desk.find(ended.id))

    play(scene)


def test_one_resume_of_two_at_once_counts(comfyui: ComfyUI, tmp_path: Path) -> None:
    async def scene() -> None:
        desk = open_desk(tmp_path)
        record = await submit(desk)
        await desk.cancel(record.id)
        run = tmp_path / "runs" / f"{record.run_name}_00001"
        run.mkdir(parents=True)
        ended = desk.find(record.id)
        tried = await asyncio.gather(desk.resume(ended), desk.resume(ended), return_exceptions=True)
        assert sorted(type(one).__name__ for one in tried) == ["Record", "Refusal"]
        assert len(comfyui.queued) == 1
        assert comfyui.graphs[-1]["2"]["inputs"]["resume"] == run.name

    play(scene)


def test_what_another_server_resumed_is_not_resumed_here(comfyui: ComfyUI, tmp_path: Path) -> None:
    async def scene() -> None:
        desk = open_desk(tmp_path)
        record = await submit(desk)
        await desk.cancel(record.id)
        other = open_desk(tmp_path)
        await other.resume(other.find(record.id))
        with pytest.raises(Refusal, match="not begun yet"):
            await desk.resume(desk.find(record.id))

    play(scene)


# ---- blocking calls --------------------------------------------------------------------------------------------


def test_nobody_waiting_means_cancelled(comfyui: ComfyUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "LEFT_ALONE_S", 0.0)

    async def scene() -> None:
        desk = open_desk(tmp_path)
        record = await submit(desk)
        assert (await Calls().wait(desk, record.id, lambda: False, "a")).state == "cancelled"
        assert comfyui.queued == []

    play(scene)


def test_a_client_that_calls_again_gets_the_request_that_is_at_work(comfyui: ComfyUI, tmp_path: Path) -> None:
    async def scene() -> None:
        desk, waiting = open_desk(tmp_path), Calls()
        record = await submit(desk)
        prompt = comfyui.begin()
        there = True
        first = asyncio.create_task(waiting.wait(desk, record.id, lambda: there, "a"))
        await until(desk, record, "running")
        assert waiting.left_alone(desk, "a") is None, "its client is still there"
        there = False
        found = waiting.left_alone(desk, "a")
        assert found is not None and found.id == record.id
        assert waiting.left_alone(desk, "b") is None, "another call"
        second = asyncio.create_task(waiting.wait(desk, found.id, lambda: True, "a"))
        assert (await first).state == "running"
        comfyui.history[prompt] = SUCCESS
        comfyui.end()
        assert (await second).state == "succeeded"
        assert waiting.left_alone(desk, "a") is None

    play(scene)


# ---- ComfyUI's own part ----------------------------------------------------------------------------------------


def test_comfyui_gets_a_graph_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The executor writes into it, and what it wrote would keep it from looking at changed files later."""
    put: list[Any] = []

    class Queue:
        def put(self, item: Any) -> None:
            put.append(item)

    class Server:
        number = 5
        prompt_queue = Queue()

        class node_replace_manager:
            @staticmethod
            def apply_replacements(graph: Any) -> None:
                graph["1"]["replaced"] = True

        @staticmethod
        def trigger_on_prompt(values: Any) -> Any:
            return values

    async def validate(prompt_id: str, graph: Any, _: Any) -> Any:
        graph["1"]["is_changed"] = [1]
        return True, None, ["1"], {}

    monkeypatch.setattr(prompts.PromptServer, "instance", Server(), raising=False)
    monkeypatch.setattr(prompts.execution, "validate_prompt", validate)
    graph = {"1": {"class_type": "X", "inputs": {}}}
    asyncio.run(prompts.put(graph, "id"))
    assert graph == {"1": {"class_type": "X", "inputs": {}}}
    number, prompt_id, queued, extra, outputs, _ = put[0]
    assert (number, prompt_id, outputs) == (5, "id", ["1"])
    assert queued["1"]["replaced"]
    assert set(extra) == {"create_time"}
