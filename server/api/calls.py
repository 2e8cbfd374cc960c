"""Blocking calls: each waits for its request, which is cancelled when nobody waits for it any more.

Covered: clients that go away; clients that call again by themselves when a connection breaks, as fal's do. These get
the request that is at work, if what they send is the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from .desk import Desk
from .store import Record

LEFT_ALONE_S = 10.0
"""For so long a request waits for its client to call again."""
LOOK_INTERVAL_S = 0.2

StillThere = Callable[[], bool]


class Calls:
    def __init__(self) -> None:
        self._calls: dict[str, tuple[str, StillThere]] = {}
        """By what was sent, as a digest: the request, and whether its client is still there."""

    def left_alone(self, desk: Desk, sent: str) -> Record | None:
        """The request of the same call, if its client has gone away."""
        request_id, still_there = self._calls.get(sent, ("", bool))
        record = desk.store.find(request_id)
        return record if record is not None and record.is_open and not still_there() else None

    async def wait(self, desk: Desk, request_id: str, still_there: StillThere, sent: str) -> Record:
        """The request when it has ended, or when its client has gone away."""
        own = self._calls[sent] = (request_id, still_there)
        try:
            while desk.find(request_id).is_open and still_there():
                await desk.a_moment(request_id)
            if desk.find(request_id).is_open and not await self._is_taken_over(desk, sent, own):
                await desk.cancel(request_id)
            return desk.find(request_id)
        finally:
            if self._calls.get(sent) is own:
                del self._calls[sent]

    async def _is_taken_over(self, desk: Desk, sent: str, own: tuple[str, StillThere]) -> bool:
        deadline = time.monotonic() + LEFT_ALONE_S
        while self._calls.get(sent) is own and time.monotonic() < deadline and desk.find(own[0]).is_open:
            await asyncio.sleep(LOOK_INTERVAL_S)
        return self._calls.get(sent) is not own
