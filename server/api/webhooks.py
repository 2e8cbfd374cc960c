"""Telling an address of the client's that a request has ended. Tried again with growing pauses, also after a restart.

It goes only where a dataset may be fetched from, waits for nobody else, and no run waits for it.
Not covered: a signature as fal's; whoever receives it can ask this server whether it is true.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ...trainer_core.errors import SaveFailed, UserError
from ...trainer_core.remote import post_json
from .failures import error_body, error_of
from .store import Record, Store

log = logging.getLogger(__name__)

PAUSES_S = (10, 30, 60, 300, 600, 1800, 3600, 7200, 14400)
"""After each try that failed; after the last one it is given up."""
TIMEOUT_S = 15.0
MAX_AT_A_TIME = 4


class Webhooks:
    def __init__(self, store: Store, answer: Callable[[Record], Awaitable[dict[str, Any]]]) -> None:
        self._store, self._answer = store, answer
        self._task: asyncio.Task[None] | None = None
        self._places = asyncio.Semaphore(MAX_AT_A_TIME)
        self._more = asyncio.Event()

    def start(self) -> None:
        """Deliver what is due, now and later."""
        self._more.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._deliver_all())

    async def _deliver_all(self) -> None:
        while waiting := [record for record in self._store.all() if self._is_mine(record)]:
            self._more.clear()
            due = [record for record in waiting if record.webhook["next"] <= time.time()]
            await asyncio.gather(*(self._deliver(record) for record in due))
            if not due:
                pause = min(record.webhook["next"] for record in waiting) - time.time()
                try:
                    await asyncio.wait_for(self._more.wait(), max(0.05, min(60.0, pause)))
                except asyncio.TimeoutError:
                    continue

    def _is_mine(self, record: Record) -> bool:
        ours = record.server == self._store.server
        return ours and not record.is_open and bool(record.webhook) and not record.webhook["done"]

    async def _deliver(self, record: Record) -> None:
        async with self._places:
            delivered = await asyncio.to_thread(_post, record.webhook["url"], await self.body(record))
        attempts = record.webhook["attempts"] + 1
        given_up = not delivered and attempts > len(PAUSES_S)
        if given_up:
            log.warning("The webhook of request %s was given up after %d tries.", record.id, attempts)
        hook = {**record.webhook, "attempts": attempts, "done": delivered or given_up}
        if not hook["done"]:
            hook["next"] = time.time() + PAUSES_S[attempts - 1]
        now = self._store.find(record.id)
        if now is None or now.prompt_id != record.prompt_id:
            return  # resumed meanwhile: it will end once more
        try:
            await asyncio.to_thread(self._store.put, dataclasses.replace(now, webhook=hook))
        except SaveFailed as error:
            log.warning("The webhook of request %s may be sent again: %s", record.id, error)

    async def body(self, record: Record) -> bytes:
        """What fal's webhooks carry."""
        told: dict[str, Any] = {"request_id": record.id, "gateway_request_id": record.id}
        if record.state == "succeeded":
            told |= {"status": "OK", "payload": await self._answer(record)}
        else:
            error = error_of(record)
            told |= {"status": "ERROR", "error": error["message"], "payload": error_body(error)}
        return json.dumps(told).encode()


def _post(url: str, body: bytes) -> bool:
    try:
        status = post_json(url, body, timeout_s=TIMEOUT_S)
    except (UserError, OSError) as error:
        log.info("A webhook was not delivered: %s", type(error).__name__)
        return False
    return 200 <= status < 300
