"""Ideogram's routes, called as a script with `requests` would; and served without the rest of ComfyUI."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import requests
from aiohttp import web
from datasets import picture
from route_client import served

KEY = "a-key-that-only-tests-have"


class IdeogramClient:
    """Asks the routes below /ideogram of one server."""

    def __init__(self, url: str, key: str = KEY, certificate: Path | None = None) -> None:
        self.url = f"{url}/ideogram"
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy must not see requests to this machine
        self._session.headers["Api-Key"] = key
        self._session.verify = str(certificate) if certificate else True

    def close(self) -> None:
        self._session.close()

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        return self._session.request(method, self.url + path, timeout=120, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.ask("GET", path, **options)

    def post(self, path: str, values: Any = None, **options: Any) -> requests.Response:
        return self.ask("POST", path, **({"json": values} if values is not None else {}), **options)

    def create(self, name: str = "My dataset") -> dict[str, Any]:
        answer = self.post("/datasets", {"name": name})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def send(self, dataset: dict[str, Any], files: Sequence[Any], field: str = "files") -> requests.Response:
        return self.post(f"/datasets/{dataset['dataset_id']}/upload_assets", files=[(field, file) for file in files])

    def upload(self, dataset: dict[str, Any], *files: Any, **options: Any) -> dict[str, Any]:
        """The summary of an upload that went well as such; its counts are those of its lists."""
        answer = self.send(dataset, files, **options)
        assert answer.status_code == 200, answer.text
        summary = answer.json()
        assert summary["success_count"] == len(summary["successful_assets"])
        assert summary["failure_count"] == len(summary["failed_assets"])
        assert summary["total_count"] == summary["success_count"] + summary["failure_count"]
        return summary

    def files(self, dataset: dict[str, Any]) -> dict[str, int]:
        """Bytes by name, as the API tells them."""
        answer = self.get(f"/datasets/{dataset['dataset_id']}")
        assert answer.status_code == 200, answer.text
        details = answer.json()
        assert details["file_count"] == len(details["files"])
        return {file["file_name"]: file["file_size_bytes"] for file in details["files"]}


def reasons(summary: dict[str, Any]) -> dict[str, str]:
    """Why, by the name of the file that was not taken."""
    return {failure["file_name"]: failure["failure_reason"] for failure in summary["failed_assets"]}


def captioned(count: int, size: tuple[int, int] = (72, 68)) -> list[tuple[str, bytes]]:
    """Pictures with a caption each, as names and bytes."""
    files = []
    for index in range(count):
        files += [(f"{index:02}.png", picture(index, size)), (f"{index:02}.txt", f"a disc, number {index}".encode())]
    return files


@contextlib.contextmanager
def ideogram_served(base: Path) -> Iterator[IdeogramClient]:
    """The routes alone, with ComfyUI's folders below `base`."""
    from ideogram4_lora_trainer.server.api.access import Guesses
    from ideogram4_lora_trainer.server.api.office import Office
    from ideogram4_lora_trainer.server.ideogram.routes import add_routes
    from ideogram4_lora_trainer.server.ideogram.training import TRAIN

    def add(routes: web.RouteTableDef) -> None:
        add_routes(routes, Office([TRAIN]), Guesses())

    with pytest.MonkeyPatch.context() as patch:
        for name in ("input", "output", "temp", "user"):
            (base / name).mkdir()
            patch.setattr(folder_paths, f"{name}_directory", str(base / name))
        patch.setenv("IDEOGRAM4_API_KEY", KEY)
        with served(add) as server:
            client = IdeogramClient(f"http://{server.address}")
            yield client
            client.close()
