"""An https server on localhost that keeps what is posted to it."""

from __future__ import annotations

import contextlib
import http.server
import json
import queue
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tls import write_certificate


class Receiver:
    def __init__(self, port: int) -> None:
        self.url = f"https://localhost:{port}/hook"
        self.received: queue.Queue[dict[str, Any]] = queue.Queue()
        self.answers: list[int] = []
        """Statuses of the next answers; 200 after these."""

    def next(self, timeout_s: float = 60) -> dict[str, Any]:
        return self.received.get(timeout=timeout_s)


@contextlib.contextmanager
def receiver(folder: Path) -> Iterator[Receiver]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(hook.answers.pop(0) if hook.answers else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            hook.received.put(json.loads(body))

        def log_message(self, *_: object) -> None:
            pass

    certificate, key = write_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        hook = Receiver(server.server_port)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield hook
        finally:
            server.shutdown()
            thread.join()
