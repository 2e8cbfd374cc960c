"""Calls of the HTTP API that no client library would make."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import zlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any


class Attacker:
    """Sends what no client library would. Each of its addresses is another one's to the server."""

    def __init__(self, server: SimpleNamespace, secrets: list[str]) -> None:
        self.server, self.secrets, self.refused = server, secrets, 0
        self._context = ssl.create_default_context(cafile=str(server.certificate))

    @contextlib.contextmanager
    def connected(self, source: str = "127.0.0.1") -> Iterator[http.client.HTTPSConnection]:
        address = ("127.0.0.1", self.server.port)
        connection = http.client.HTTPSConnection(
            *address, context=self._context, source_address=(source, 0), timeout=60
        )
        with contextlib.closing(connection):
            yield connection

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        source: str = "127.0.0.1",
        **more: str,
    ) -> SimpleNamespace:
        """`key` is a whole Authorization header, "" for none; `more` are headers with `_` for `-`."""
        headers = {name.replace("_", "-"): value for name, value in more.items()}
        authorization = f"Key {self.server.key}" if key is None else key
        if authorization:
            headers["Authorization"] = authorization
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        with self.connected(source) as connection:
            connection.request(method, path, body, headers)
            return self.answer(connection)

    def answer(self, connection: http.client.HTTPSConnection) -> SimpleNamespace:
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
        told = text + str(response.getheaders())
        assert not any(secret in told for secret in self.secrets), told
        return SimpleNamespace(status=response.status, headers=response.headers, text=text)

    def refuse(self, status: int | tuple[int, ...], *args: Any, error_type: str = "", **more: Any) -> SimpleNamespace:
        """The answer to a call that must be refused with this status."""
        answer = self.ask(*args, **more)
        expected = (status,) if isinstance(status, int) else status
        assert answer.status in expected, (args, answer.status, answer.text[:500])
        if error_type:
            assert error_type in answer.text, (args, answer.text[:500])
        self.refused += 1
        return answer


def huge_png() -> bytes:
    """The head of a PNG of 100,000 times 100,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = (100_000).to_bytes(4, "big")
    head = chunk(b"IHDR", size + size + bytes([8, 2, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(2**16))) + chunk(b"IEND", b"")
