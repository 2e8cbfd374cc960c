"""The pack's routes, asked over HTTP as a browser or a program would; and served without the rest of ComfyUI."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from aiohttp import web

PREFIX = "/ideogram4_lora_trainer"
BYTES = "application/octet-stream"


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """What is told in an answer that is a refusal."""
        assert self.status >= 400, self.body
        return self.json["error"]


class RouteClient:
    """Asks the routes below the pack's prefix of one server."""

    def __init__(self, url: str) -> None:
        self.address = urlsplit(url).netloc

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request; headers with `_` for `-`. The path is sent as it is."""
        connection = http.client.HTTPConnection(self.address, timeout=60)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, PREFIX + path, body, named)
            response = connection.getresponse()
            return Answer(response.status, response.read(), dict(response.getheaders()))

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, values: Any = None, **headers: str) -> Answer:
        body = json.dumps({} if values is None else values).encode()
        return self.ask("POST", path, body, **{"Content_Type": "application/json", **headers})

    # ---- uploads ---------------------------------------------------------------------------------------------

    def begin(self, files: Sequence[tuple[str, int]], **more: Any) -> Answer:
        return self.post("/uploads", {"files": [{"name": name, "bytes": size} for name, size in files], **more})

    def part(self, token: str, index: int, offset: int, data: bytes, **headers: str) -> Answer:
        headers = {"Content_Type": BYTES, **headers}
        return self.ask("POST", f"/uploads/{token}/files/{index}?offset={offset}", data, **headers)

    def send(self, files: Sequence[tuple[str, bytes]], **more: Any) -> str:
        """Begin an upload and send all its parts; returns its token."""
        begun = self.begin([(name, len(data)) for name, data in files], **more)
        assert begun.status == 200, begun.body
        token, part_bytes = begun.json["upload"], begun.json["part_bytes"]
        for index, (_, data) in enumerate(files):
            for offset in range(0, len(data), part_bytes):
                piece = data[offset : offset + part_bytes]
                assert self.part(token, index, offset, piece).json == {"received": offset + len(piece)}
        return token

    def finish(self, token: str) -> Answer:
        return self.post(f"/uploads/{token}/finish")

    def upload(self, *files: tuple[str, bytes], **more: Any) -> dict[str, str]:
        """Send files and return the dataset that they became."""
        finished = self.finish(self.send(files, **more))
        assert finished.status == 200, finished.body
        return finished.json["dataset"]

    # ---- datasets --------------------------------------------------------------------------------------------

    def datasets(self) -> dict[str, dict[str, str]]:
        """By name."""
        return {entry["name"]: entry for entry in self.get("/datasets").json["datasets"]}

    def sheet(self, dataset: dict[str, str], **wishes: Any) -> dict[str, Any]:
        """The sheet with everything on it, waiting for what comes later."""
        while True:
            answer = self.post(f"/datasets/{dataset['id']}/sheet", {"resolution": "64x64", **wishes})
            assert answer.status == 200, answer.body
            if not answer.json.get("pending"):
                return answer.json

    def item(self, dataset: dict[str, str], index: int, version: str) -> Answer:
        return self.get(f"/datasets/{dataset['id']}/items/{index}?version={quote(version)}")

    def picture(self, dataset: dict[str, str], index: int, version: str, size: str = "thumb", **headers: str) -> Answer:
        return self.get(f"/datasets/{dataset['id']}/items/{index}/image?version={version}&size={size}", **headers)

    def correct(self, dataset: dict[str, str], index: int, **values: Any) -> Answer:
        return self.post(f"/datasets/{dataset['id']}/items/{index}/caption", values)


@contextlib.contextmanager
def served(*add_routes: Callable[[web.RouteTableDef], None]) -> Iterator[RouteClient]:
    """A server with nothing but some routes, and with a limit on bodies that is far below a dataset's size."""
    routes = web.RouteTableDef()
    for add in add_routes:
        add(routes)
    app = web.Application(client_max_size=1024)
    app.add_routes(routes)
    loop, ready, address = asyncio.new_event_loop(), threading.Event(), []

    async def start() -> web.AppRunner:
        runner = web.AppRunner(app, shutdown_timeout=1)  # for clients that do not hang up
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address.append(runner.addresses[0])
        return runner

    def run() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(30)
    try:
        yield RouteClient(f"http://{address[0][0]}:{address[0][1]}")
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
