"""The desk: takes requests, follows them through ComfyUI's queue to their end, and answers what has become of them.

All of it runs on the server's event loop, with disk work on threads. What happens to a prompt elsewhere (cancelled or
deleted in the page, history cleared, ComfyUI ended) is noticed and told as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydantic

from ...trainer_core.errors import SaveFailed, UserError
from ..guard import Refusal
from . import prompts
from .endpoints import Context, Endpoint
from .failures import CANCELLED, LOST, REMOVED, failure_of
from .reports import Reports, answer, stage_of
from .settings import ApiSettings
from .store import Record, Store
from .webhooks import Webhooks
from .words import without_paths

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 0.2
MAX_OPEN = 200
"""Requests that wait or run."""


class Desk:
    def __init__(self, store: Store, endpoints: dict[str, Endpoint], runs_folder: Callable[[], Path]) -> None:
        self.store = store
        self.endpoints = endpoints
        self.webhooks = Webhooks(store, answer)
        self._changing = asyncio.Lock()
        """Held while a request goes from one state to another."""
        self._following: asyncio.Task[None] | None = None
        self._ended: dict[str, asyncio.Event] = {}
        """Of those that are in ComfyUI's queue: they are followed."""
        self.reports = Reports(runs_folder)
        self._missing: set[str] = set()
        self._judged = 0
        """Of those that are not queued yet."""

    # ---- taking ----------------------------------------------------------------------------------------------

    async def submit(self, path: str, values: pydantic.BaseModel, base: str, webhook: str = "") -> Record:
        """Queue what is asked for. Raises `Invalid`, `Refusal` or `UserError`; then nothing is queued."""
        with self._place():
            return await self._submit(path, values, base, webhook)

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """Room for one more request, those that are being judged counted. Raises `Refusal`."""
        if sum(record.is_open for record in self.store.all()) + self._judged >= MAX_OPEN:
            raise Refusal(429, "queue_full", f"{MAX_OPEN} requests wait already. Wait for some of them.")
        self._judged += 1
        try:
            yield
        finally:
            self._judged -= 1

    async def _submit(self, path: str, values: pydantic.BaseModel, base: str, webhook: str) -> Record:
        request_id = str(uuid.uuid4())
        settings = await asyncio.to_thread(ApiSettings.load)
        job = await self.endpoints[path].build(values, Context(request_id, base, settings, self.store))
        record = Record(
            id=request_id,
            endpoint=path,
            graph=job.graph,
            base=base,
            created=time.time(),
            run_name=job.run_name,
            notes=tuple(job.notes),
            values=job.values,
            webhook={"url": webhook, "attempts": 0, "next": 0.0, "done": False} if webhook else {},
        )
        kept = [endpoint.path for endpoint in self.endpoints.values() if endpoint.is_kept]
        await asyncio.to_thread(self.store.prune, kept)
        return await self._queue(record)

    async def resume(self, record: Record) -> Record:
        """Queue a request again that did not succeed; its training goes on at its newest checkpoint."""
        with self._place():
            return await self._resume(record.id)

    async def _resume(self, request_id: str) -> Record:
        async with self._changing:
            on_disk = await asyncio.to_thread(self.store.read, request_id)
            # Another ComfyUI with the same folders may have resumed it. Of our own, memory knows more than a full disk.
            is_others = on_disk is not None and on_disk.server != self.store.server
            record = on_disk if on_disk is not None and is_others else self.find(request_id)
            if record.is_open or record.state == "succeeded":
                raise Refusal(409, "not_resumable", f"The request has {_STATE_WORDS[record.state]}.")
            if record.endpoint not in self.endpoints:
                raise Refusal(409, "not_resumable", "This version does not know what was asked for.")
            graph = await asyncio.to_thread(self._graph_to_go_on, record)
            hook = {**record.webhook, "attempts": 0, "next": 0.0, "done": False} if record.webhook else {}
            again = dataclasses.replace(
                record, graph=graph, state="queued", started=0.0, ended=0.0, error={}, webhook=hook
            )
            return await self._queue(again, before=record)

    async def _queue(self, record: Record, before: Record | None = None) -> Record:
        # The first prompt has the request's own id, by which it is found in the page too.
        prompt_id = str(uuid.uuid4()) if record.prompt_id else record.id
        record = dataclasses.replace(record, prompt_id=prompt_id, server=self.store.server)
        await asyncio.to_thread(self.store.put, record)  # first: a request that is queued is never unknown
        try:
            await prompts.put(record.graph, record.prompt_id)
        except BaseException:
            if before is None:
                self.store.drop(record.id)
            else:
                await asyncio.to_thread(self.store.put, before)
            raise
        self._ended[record.id] = asyncio.Event()
        self.start()
        return record

    def _graph_to_go_on(self, record: Record) -> dict[str, Any]:
        folder = self.reports.run_folder(record)
        graph = {node_id: {**node, "inputs": dict(node["inputs"])} for node_id, node in record.graph.items()}
        for node in graph.values():
            if node["class_type"] == "Ideogram4TrainLoRA" and folder is not None:
                node["inputs"]["resume"] = folder.name
        return graph

    # ---- following -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Follow what is open, and go on with webhooks that a server before this one has left."""
        self.webhooks.start()
        if self._following is None or self._following.done():
            self._following = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        while own := [record for record in self.store.all() if record.is_open and record.id in self._ended]:
            for record in own:
                try:
                    async with self._changing:
                        await self._look_at(record)
                except Exception:
                    # Boundary: one request that cannot be followed must not keep the others from being told.
                    log.exception("Request %s cannot be followed.", record.id)
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def _look_at(self, seen: Record) -> None:
        record = self.store.find(seen.id)
        if record is None or not record.is_open:
            return
        ahead = prompts.place(record.prompt_id)
        if ahead is not None:
            self._missing.discard(record.prompt_id)
            if ahead < 0:
                await self._note_progress(record)
            return
        outcome = prompts.outcome(record.prompt_id)
        if outcome is None and record.prompt_id not in self._missing:
            self._missing.add(record.prompt_id)  # looked at once more: its end may be noted in this moment
            return
        self._missing.discard(record.prompt_id)
        await self._put(await asyncio.to_thread(self._ended_record, record, outcome))

    async def _note_progress(self, record: Record) -> None:
        began = record.state == "queued"
        if began:
            record = dataclasses.replace(record, state="running", started=time.time())
        stage = stage_of(prompts.at_work(record.prompt_id)[0], record)
        if stage:
            record = dataclasses.replace(record, stages=(*record.stages, (time.time(), stage)))
        if began or stage:
            await self._put(record)

    def _ended_record(self, record: Record, outcome: prompts.Outcome | None) -> Record:
        started, ended = _times(record, outcome)
        record = dataclasses.replace(record, started=started, ended=ended)
        if outcome is None:
            error = REMOVED if record.state == "queued" else LOST
        elif (outcome.get("status") or {}).get("status_str") == "success":
            try:
                made = self.endpoints[record.endpoint].result(record, outcome.get("outputs") or {})
                files, notes = tuple(made.files), tuple(made.notes)
                ending = {"files": files, "payload": made.payload, "last_notes": notes}
                return dataclasses.replace(record, state="succeeded", **ending)
            except UserError as fault:
                status = 507 if isinstance(fault, SaveFailed) else 500
                error = {"status": status, "code": fault.code, "message": without_paths(str(fault))}
            except Exception:
                # Boundary: a defect in reading one result must not leave its request open for ever.
                log.exception("The result of request %s cannot be read.", record.id)
                error = LOST
        else:
            error = failure_of(outcome, self.endpoints[record.endpoint].faults)
        state = "cancelled" if error["code"] == CANCELLED["code"] else "failed"
        return dataclasses.replace(record, state=state, error=error)

    async def _put(self, record: Record) -> None:
        try:
            await asyncio.to_thread(self.store.put, record)
        except SaveFailed as error:
            self.store.remember(record)
            log.warning("The state of request %s is in memory only: %s", record.id, error)
        if not record.is_open:
            self._ended.pop(record.id, asyncio.Event()).set()
            self.webhooks.start()

    # ---- answering -------------------------------------------------------------------------------------------

    def find(self, request_id: str) -> Record:
        """Raises `Refusal` for an id that there is not."""
        record = self.store.find(request_id)
        if record is None:
            raise Refusal(404, "not_found", "There is no request of that id here.")
        return record

    async def cancel(self, request_id: str) -> bool:
        """Take it out of the queue, or interrupt it. False where it has ended already."""
        async with self._changing:
            record = self.find(request_id)
            if not record.is_open or record.server != self.store.server:
                return False
            waiting = prompts.place(record.prompt_id) not in (-1, None)
            taken = prompts.take_out(record.prompt_id)
            if taken and waiting and prompts.place(record.prompt_id) is None:
                await self._put(dataclasses.replace(record, state="cancelled", ended=time.time(), error=CANCELLED))
            return taken

    async def a_moment(self, request_id: str) -> None:
        """Wait for the end of a request, a second at most."""
        event = self._ended.get(request_id)
        if event is None:
            await asyncio.sleep(LOOK_INTERVAL_S)
            return
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(event.wait(), 1.0)

    def queue_position(self, record: Record) -> int:
        """How many prompts of ComfyUI's queue, of whomever, are done before this one."""
        ahead = prompts.place(record.prompt_id)
        return max(0, ahead) if ahead is not None else 0

    async def progress(self, record: Record) -> tuple[int, int]:
        """Steps that its training has done, and that there are; before it those of what is at work, (0, 0) for none."""
        step, steps = await self.reports.progress(record)
        if not steps and record.is_open:
            _, step, steps = prompts.at_work(record.prompt_id)
        return (step, steps) if steps > 1 else (0, 0)

    async def is_running(self, record: Record) -> bool:
        """Now, and not when it was last looked at."""
        if record.server == self.store.server and (ahead := prompts.place(record.prompt_id)) is not None:
            return ahead < 0
        return record.state == "running"


_STATE_WORDS = {
    "queued": "not begun yet; it waits in ComfyUI's queue",
    "running": "not ended yet; it is running",
    "succeeded": "succeeded already",
}


def _times(record: Record, outcome: prompts.Outcome | None) -> tuple[float, float]:
    """When it began and ended, by ComfyUI's own record where there is one: a short prompt is never seen running."""
    times = {
        kind: detail.get("timestamp") for kind, detail in ((outcome or {}).get("status") or {}).get("messages", [])
    }
    begun = times.pop("execution_start", None)
    last = max((time_ms for time_ms in times.values() if isinstance(time_ms, int)), default=None)
    started = begun / 1000 if isinstance(begun, int) else record.started
    return started, last / 1000 if last else time.time()
