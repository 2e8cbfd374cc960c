"""A TLS server on this machine that plays the internet: names, what they resolve to, and what is answered."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ideogram4_lora_trainer.trainer_core.remote import Network

PUBLIC = "93.184.216.34"

# For dataset.test and other.test, which exist nowhere; valid from 2020 to 2120, trusted by tests alone.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBhTCCASygAwIBAgIBATAKBggqhkjOPQQDAjAXMRUwEwYDVQQDDAxkYXRhc2V0
LnRlc3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBcxFTATBgNV
BAMMDGRhdGFzZXQudGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABBsrEdPo
lSCRzBf06Tg7cSPTBfY7qw0nd1RSoqY0nG4DuznYy6jHpBsePmn7GbFVIUHTwBXK
GYeQABxjfzOroQajZzBlMA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYEFFCBYyky
V++mvp5XvdhQJ5B4undtMA4GA1UdDwEB/wQEAwIChDAjBgNVHREEHDAaggxkYXRh
c2V0LnRlc3SCCm90aGVyLnRlc3QwCgYIKoZIzj0EAwIDRwAwRAIga/nLo6JfSfSl
qFpFcT0xxmtlTOI80er7sKZRZ7XgwUcCIGsY+M0qrpXukdFo8JKsWi+PQxue5SNp
ONlicFo5BEGc
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg6gcIKsxtu20YwMAb
z1TvKzGyUXJwUYoVL0J7OB+TNRahRANCAAQbKxHT6JUgkcwX9Ok4O3Ej0wX2O6sN
J3dUUqKmNJxuA7s52Muox6QbHj5p+xmxVSFB08AVyhmHkAAcY38zq6EG
-----END PRIVATE KEY-----
"""

Answer = Callable[[ssl.SSLSocket, str], None]


def ok(body: bytes, *headers: str) -> bytes:
    lines = ("HTTP/1.1 200 OK", *(headers or (f"Content-Length: {len(body)}",)), "", "")
    return "\r\n".join(lines).encode() + body


def redirect(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Go\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


@dataclasses.dataclass
class Internet:
    """Names, what they resolve to, and one server that answers for all of them."""

    port: int
    certificate_file: Path
    addresses: dict[str, list[str]] = dataclasses.field(default_factory=lambda: {"dataset.test": [PUBLIC]})
    answers: dict[str, bytes | Answer] = dataclasses.field(default_factory=dict)
    """By request target; bytes are sent as they are."""
    requests: list[str] = dataclasses.field(default_factory=list)
    """Heads and bodies."""
    connected: list[tuple[str, int]] = dataclasses.field(default_factory=list)

    @property
    def network(self) -> Network:
        return Network(resolve=self.resolve, connect=self.connect, tls_context=self.context)

    def resolve(self, host: str, port: int, **_: Any) -> list[Any]:
        if host not in self.addresses:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses[host]]

    def connect(self, address: tuple[str, int], timeout: float) -> socket.socket:
        """Every public address leads to the server of the test."""
        self.connected.append(address)
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate_file))

    def serve(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return  # the test is over
            with contextlib.suppress(OSError), raw, context.wrap_socket(raw, server_side=True) as client:
                self.answer(client)

    def answer(self, client: ssl.SSLSocket) -> None:
        request = b""
        while b"\r\n\r\n" not in request and (piece := client.recv(4096)):
            request += piece
        head, _, body = request.partition(b"\r\n\r\n")
        length = re.search(rb"\r\nContent-Length: (\d+)", head)
        while length and len(body) < int(length[1]) and (piece := client.recv(65536)):
            body += piece
        request = head + b"\r\n\r\n" + body
        self.requests.append(request.decode())
        answer = self.answers.get(request.split(b" ")[1].decode(), b"HTTP/1.1 404 Not Found\r\n\r\n")
        if isinstance(answer, bytes):
            client.sendall(answer)
        else:
            answer(client, request.decode())


@contextlib.contextmanager
def running_internet(folder: Path) -> Iterator[Internet]:
    """The server, with its certificate in `folder`."""
    (folder / "cert.pem").write_text(CERTIFICATE)
    (folder / "key.pem").write_text(KEY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        internet = Internet(listener.getsockname()[1], folder / "cert.pem")
        thread = threading.Thread(target=internet.serve, args=(listener, context), daemon=True)
        thread.start()
        yield internet
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    assert not thread.is_alive()
