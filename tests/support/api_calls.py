"""The HTTP API asked by plain requests, for what no client library does."""

from __future__ import annotations

import base64
import time
from types import SimpleNamespace
from typing import Any

import requests
from datasets import dataset_zip

APP = "ideogram/v4"
TIMEOUT_S = 240


def data_uri(content: bytes) -> str:
    """A zip as the trainer takes it."""
    return "data:application/zip;base64," + base64.b64encode(content).decode()


class ApiClient:
    """Answers are `requests.Response`s; addresses begin with /."""

    def __init__(self, server: SimpleNamespace, key: str | None = None) -> None:
        self.base = server.api
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = str(server.certificate)
        self._session.headers["Authorization"] = f"Key {server.key if key is None else key}"

    def ask(self, method: str, address: str, timeout_s: float = 60, **options: Any) -> requests.Response:
        return self._session.request(method, self.base + address, timeout=timeout_s, **options)

    def submit(self, endpoint: str = f"{APP}/trainer", *, webhook: str = "", **values: Any) -> dict[str, Any]:
        """The answer to a submission that is accepted."""
        params = {"fal_webhook": webhook} if webhook else None
        answer = self.ask("POST", f"/fal/queue/{endpoint}", json=values, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def train(self, steps: int, *, webhook: str = "", content: bytes = b"", **more: Any) -> str:
        """Submit a training on three small pictures; returns the request's id."""
        uri = data_uri(content or dataset_zip())
        values = {"images_data_url": uri, "steps": steps, "resolution": "64x64", **more}
        return self.submit(webhook=webhook, **values)["request_id"]

    def request(self, request_id: str, what: str = "", method: str = "GET") -> requests.Response:
        return self.ask(method, f"/fal/queue/{APP}/requests/{request_id}{what}")

    def status(self, request_id: str) -> dict[str, Any]:
        answer = self.request(request_id, "/status?logs=1")
        assert answer.ok, answer.text
        return answer.json()

    def until(self, request_id: str, *wanted: str, step: int = 0) -> dict[str, Any]:
        """Wait for a status, and for a step of its training."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            status = self.status(request_id)
            if status["status"] in wanted and (status.get("progress") or {}).get("step", 0) >= step:
                return status
            time.sleep(0.05)
        raise AssertionError(f"{request_id} did not come to {wanted} in time: {status}")

    def result(self, request_id: str) -> dict[str, Any]:
        """The result of a request, waited for."""
        status = self.until(request_id, "COMPLETED")
        assert "error" not in status, status
        return self.request(request_id).json()

    def file(self, told: dict[str, Any]) -> bytes:
        """The bytes of a File object."""
        assert told["url"].startswith(self.base)
        answer = self.ask("GET", told["url"].removeprefix(self.base))
        assert answer.status_code == 200, answer.text
        return answer.content
