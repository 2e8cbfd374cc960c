"""One request over https to a judged address.

Covered: the connection goes to an address that was judged, so a second answer of the resolver changes nothing;
certificates are verified; every wait ends at the deadline, however slowly the bytes drip; proxies of the environment
are ignored. No redirect is followed here.
Not covered: certificates that the environment adds to the trusted ones (SSL_CERT_FILE).
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import SplitResult, quote

from .advice import Advice
from .judge import judged_addresses, place_of
from .network import Network

_CONNECT_TIMEOUT_S = 20.0
_SEND_BYTES = 64 * 2**10
_URL_SAFE = "/?%:@!$&'()*+,;=~"  # what stays as it is in a path or query; all else is percent-encoded


class Deadline:
    """One end for all steps of a transfer, from the first name lookup to the last byte."""

    def __init__(self, timeout_s: float) -> None:
        self._end = time.monotonic() + timeout_s

    def remaining_s(self) -> float:
        """Raises `TimeoutError` where nothing remains."""
        remaining = self._end - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("takes too long")
        return remaining


@contextlib.contextmanager
def request(
    parts: SplitResult,
    deadline: Deadline,
    network: Network,
    advice: Advice,
    *,
    body: bytes | None = None,
    max_bytes: int | None = None,
) -> Iterator[http.client.HTTPResponse]:
    """GET a judged URL, or POST `body` to it as JSON; the response's own body is not read yet.

    The answer ends after `max_bytes`, headers included, as if the server had ended it. Raises `Refused`, OSError and
    `http.client.HTTPException`.
    """
    method = "GET" if body is None else "POST"
    host, port = place_of(parts)
    deadline.remaining_s()
    with _connect(judged_addresses(parts, network, advice), port, deadline, network) as raw:
        raw.settimeout(deadline.remaining_s())
        with network.tls_context().wrap_socket(raw, server_hostname=host) as secure:
            _send(secure, _head(parts, host, method, body) + (body or b""), deadline)
            source: Any = _SocketLike(_TimedStream(secure, deadline, max_bytes))
            with http.client.HTTPResponse(source, method=method) as response:
                response.begin()
                yield response


def _connect(addresses: list[str], port: int, deadline: Deadline, network: Network) -> socket.socket:
    """Connect to the first address that answers; addresses are numbers, so nothing is resolved again."""
    failure: OSError | None = None
    for address in addresses:
        try:
            return network.connect((address, port), timeout=min(_CONNECT_TIMEOUT_S, deadline.remaining_s()))
        except OSError as error:
            failure = error
    raise failure or OSError("no address")


def _head(parts: SplitResult, host: str, method: str, body: bytes | None) -> bytes:
    target = quote(parts.path or "/", safe=_URL_SAFE)
    if parts.query:
        target += "?" + quote(parts.query, safe=_URL_SAFE)
    bracketed = f"[{host}]" if ":" in host else host
    authority = bracketed if parts.port in (None, 443) else f"{bracketed}:{parts.port}"
    lines = [
        f"{method} {target} HTTP/1.1",
        f"Host: {authority}",
        "User-Agent: ideogram4-lora-trainer",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Connection: close",
    ]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _send(secure: ssl.SSLSocket, data: bytes, deadline: Deadline) -> None:
    # In pieces: one time limit counts for each, and `sendall` would begin a new one with every record.
    rest = memoryview(data)
    while rest:
        secure.settimeout(deadline.remaining_s())
        rest = rest[secure.send(rest[:_SEND_BYTES]) :]


class _TimedStream(io.RawIOBase):
    """What a TLS socket receives; every wait ends at the deadline, and the stream after `max_bytes`."""

    def __init__(self, secure: ssl.SSLSocket, deadline: Deadline, max_bytes: int | None) -> None:
        self._secure, self._deadline = secure, deadline
        self._left = max_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._secure.settimeout(self._deadline.remaining_s())
        if self._left is None:
            return self._secure.recv_into(buffer)
        count = self._secure.recv_into(buffer, min(len(buffer), self._left)) if self._left else 0
        self._left -= count
        return count


class _SocketLike:
    """The one method of a socket that `HTTPResponse` uses."""

    def __init__(self, stream: _TimedStream) -> None:
        self._stream = stream

    def makefile(self, mode: str) -> BinaryIO:
        return io.BufferedReader(self._stream)
