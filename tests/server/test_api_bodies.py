"""Bodies of the HTTP API, small and large, whole and hostile; and the addresses that a server is called by."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web
from ideogram4_lora_trainer.server.api import bodies, own_files
from ideogram4_lora_trainer.server.api.access import Guesses, keyed
from ideogram4_lora_trainer.server.api.addresses import base_of
from ideogram4_lora_trainer.server.api.bodies import read_object
from ideogram4_lora_trainer.server.api.store import Store
from route_client import PREFIX, RouteClient, served

KEY = "sixteen-letters-"
LIMIT = 6 * 2**20


@pytest.fixture
def waiting() -> threading.Semaphore:
    """Handlers that have read a body which says so wait for this."""
    return threading.Semaphore(0)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, waiting: threading.Semaphore) -> Iterator[RouteClient]:
    monkeypatch.setenv("IDEOGRAM4_API_KEY", KEY)
    monkeypatch.setattr(bodies, "_temp_folder", lambda: tmp_path)

    def add(routes: web.RouteTableDef) -> None:
        async def count(request: web.Request) -> web.Response:
            async with read_object(request, LIMIT) as body:
                if body.get("wait"):
                    await asyncio.to_thread(waiting.acquire)
                return web.json_response({"keys": len(body)})

        routes.post(f"{PREFIX}/count")(keyed(count, Guesses()))

    with served(add) as client:
        yield client
    assert list(tmp_path.iterdir()) == []


def send(api: RouteClient, body: bytes, **headers: str) -> tuple[int, object]:
    answer = api.ask("POST", "/count", body, **{"Content_Type": "application/json", "Api_Key": KEY, **headers})
    told = answer.json
    return answer.status, told.get("keys", told.get("error_type"))


def test_objects_of_any_size_up_to_the_limit(api: RouteClient) -> None:
    assert send(api, b"{}") == (200, 0)
    assert send(api, json.dumps({"a": "x" * (5 * 2**20)}).encode()) == (200, 1)
    assert send(api, json.dumps({"a": "x" * LIMIT}).encode()) == (413, "too_large")


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"null", b"5", b"{", b'{"a": NaN}', b'{"a": Infinity}', b"\xff\xfe", b"[" * 10_000, b"1" * 5000),
        b'{"a": [' + b"{}," * 50_000 + b"{}]}",
        b'{"a": [' + b"1," * 2000 + b"1]}",
        json.dumps(dict.fromkeys(map(str, range(1001)))).encode(),
        json.dumps({"a": {"b": dict.fromkeys(map(str, range(999)))}}).encode(),
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_no_small_object_is_refused(api: RouteClient, body: bytes) -> None:
    assert send(api, body) == (422, "json_invalid")


def test_a_caption_of_the_largest_size_is_no_structure(api: RouteClient) -> None:
    """JSON captions are full of signs."""
    caption = json.dumps({"elements": [{"bbox": [1, 2, 3, 4], "desc": "x"}] * 1000})
    assert send(api, json.dumps({"default_caption": caption}).encode()) == (200, 1)


def test_other_kinds_are_refused(api: RouteClient) -> None:
    assert send(api, b"{}", Content_Type="text/plain") == (415, "not_json")


def test_so_many_large_ones_at_once_and_small_ones_pass(api: RouteClient, waiting: threading.Semaphore) -> None:
    large = json.dumps({"wait": True, "a": "x" * 2 * 2**20}).encode()
    answers: list[object] = []
    threads = [threading.Thread(target=lambda: answers.append(send(api, large))) for _ in range(bodies.MAX_LARGE)]
    for thread in threads:
        thread.start()
    while not bodies._large.locked():
        time.sleep(0.01)
    assert send(api, large) == (429, "too_many")
    assert send(api, b"{}") == (200, 0)
    for _ in threads:
        waiting.release()
    for thread in threads:
        thread.join()
    assert answers == [(200, 2)] * bodies.MAX_LARGE
    waiting.release()
    assert send(api, large) == (200, 2)


# ---- addresses -----------------------------------------------------------------------------------------------


def base(host: str, path: str = "/fal/x", **headers: str) -> str:
    return base_of(SimpleNamespace(host=host, path=path, scheme="http", headers=headers))


def test_what_this_server_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    assert base("localhost:8188") == "http://localhost:8188"
    assert base("lora.example.org", **{"X-Forwarded-Proto": "https"}) == "https://lora.example.org"
    assert base("[::1]:8188", "/api/fal/x", **{"X-Forwarded-Proto": "javascript"}) == "http://[::1]:8188/api"
    monkeypatch.setenv("IDEOGRAM4_API_URL", "https://lora.example.org/comfy/")
    assert base("anything") == "https://lora.example.org/comfy"


@pytest.mark.parametrize(
    "host", ["", "a/b", 'a"b', "a?b", "x:1@y", "a b", "\udcff.evil", "a\nb", "a" * 300, "<script>"]
)
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(Exception, match="names no host"):
        base(host)


def test_data_uris_are_not_kept_in_memory(tmp_path: Path) -> None:
    """Python keeps the addresses that it has taken apart last."""
    before = urllib.parse.urlsplit.cache_info().currsize
    assert own_files.own_file("data:image/png;base64," + "A" * 100_000, Store(tmp_path)) is None
    assert urllib.parse.urlsplit.cache_info().currsize == before
