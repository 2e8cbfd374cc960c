"""Telling an address of the client's that a request has ended. Tried again with growing pauses, also after a restart.

It goes only where a dataset may be fetched from, waits for nobody else, and no run waits for it.
Not covered: a signature as fal's; whoever receives it can ask this server whether it is true.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeGuard

from ...trainer_core.errors import SaveFailed, UserError
from ...trainer_core.remote import post_json
from .failures import error_body, error_of
from .store import Record, Store
from .threads import outside

log = logging.getLogger(__name__)

PAUSES_S = (10, 30, 60, 300, 600, 1800, 3600, 7200, 14400)
"""After each try that failed; after the last one it is given up."""
TIMEOUT_S = 15.0
MAX_AT_A_TIME = 4
LONGEST_PAUSE_S = 60.0
"""Before the time is looked at again: the clock may have been set."""


class Webhooks:
    def __init__(self, store: Store, answer: Callable[[Record], Awaitable[dict[str, Any]]]) -> None:
        self._store, self._answer = store, answer
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """One for each request that is to be told."""
        self._places = asyncio.Semaphore(MAX_AT_A_TIME)

    def start(self) -> None:
        """Deliver what has ended and was not told yet."""
        for record in self._store.all():
            if self._is_to_be_told(record) and record.id not in self._tasks:
                task = asyncio.get_running_loop().create_task(self._tell(record.id))
                self._tasks[record.id] = task
                task.add_done_callback(functools.partial(self._forget, record.id))

    def _forget(self, request_id: str, _: asyncio.Task[None]) -> None:
        self._tasks.pop(request_id, None)

    def _is_to_be_told(self, record: Record | None) -> TypeGuard[Record]:
        if record is None or record.is_open or record.server != self._store.server:
            return False
        return bool(record.webhook) and not record.webhook["done"]

    async def _tell(self, request_id: str) -> None:
        try:
            while self._is_to_be_told(record := self._store.find(request_id)):
                pause = record.webhook["next"] - time.time()
                if pause > 0:
                    await asyncio.sleep(min(pause, LONGEST_PAUSE_S))
                else:
                    await self._try(record)
        except Exception:
            # Boundary: a task that nobody waits for. Others go on, and this is tried again after a restart.
            log.exception("The webhook of request %s cannot be sent.", request_id)

    async def _try(self, record: Record) -> None:
        async with self._places:
            delivered = await outside(_post, record.webhook["url"], await self.body(record))
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
        told = dataclasses.replace(now, webhook=hook)
        try:
            await asyncio.to_thread(self._store.put, told)
        except SaveFailed as error:
            self._store.remember(told)
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
    except (UserError, OSError, ValueError) as error:
        log.info("A webhook was not delivered: %s", type(error).__name__)
        return False
    return 200 <= status < 300
