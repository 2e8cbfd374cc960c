"""Where the routes find the desk: opened when it is first needed, or at the start if requests were left behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from ..runs import runs_folder
from .desk import Desk
from .endpoints import Endpoint
from .settings import api_folder
from .store import Store

log = logging.getLogger(__name__)


class Office:
    def __init__(self, endpoints: list[Endpoint], folder: Callable[[], Path] = api_folder) -> None:
        self.endpoints = {endpoint.path: endpoint for endpoint in endpoints}
        self._folder = folder
        self._opening = asyncio.Lock()
        self._desk: Desk | None = None

    async def desk(self) -> Desk:
        async with self._opening:
            if self._desk is None:
                store = await asyncio.to_thread(Store, self._folder())
                self._desk = Desk(store, self.endpoints, runs_folder)
                self._desk.start()
            return self._desk

    async def open_if_left(self, _: web.Application) -> None:
        """At the start of the server: tell the truth about what an earlier one has left, and its webhooks too."""
        try:
            if (self._folder() / "requests").is_dir():
                await self.desk()
        except OSError as error:
            log.warning("The requests of the HTTP API cannot be read: %s", error)
