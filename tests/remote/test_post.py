"""Messages to a webhook: where they go, what is sent, and what ends the wait."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ideogram4_lora_trainer.trainer_core.errors import RemoteRefused
from ideogram4_lora_trainer.trainer_core.remote import post_json
from ideogram4_lora_trainer.trainer_core.remote.post import MAX_ANSWER_BYTES
from internet import PUBLIC, Internet, ok, redirect, running_internet

HOOK = "https://dataset.test/hook"
BODY = json.dumps({"status": "OK", "text": "ü"}).encode()


@pytest.fixture
def internet(tmp_path: Path) -> Iterator[Internet]:
    with running_internet(tmp_path) as internet:
        internet.answers["/hook"] = ok(b"thanks")
        yield internet


@pytest.fixture
def post(internet: Internet) -> Callable[..., int]:
    return lambda url=HOOK, body=BODY, **options: post_json(url, body, network=internet.network, **options)


def test_the_body_arrives_and_the_status_comes_back(post: Any, internet: Internet) -> None:
    internet.answers["/hook?token=a/b"] = b"HTTP/1.1 204 No Content\r\n\r\n"
    assert post("https://dataset.test:8443/hook?token=a/b#x") == 204
    (request,) = internet.requests
    head, _, body = request.partition("\r\n\r\n")
    assert body.encode() == BODY and head.startswith("POST /hook?token=a/b HTTP/1.1\r\nHost: dataset.test:8443\r\n")
    assert f"Content-Length: {len(BODY)}" in head and "Content-Type: application/json" in head
    assert internet.connected == [(PUBLIC, 8443)]


@pytest.mark.parametrize("size", [0, 1, 16_000, 3_000_000])
def test_bodies_of_every_size_arrive_whole(post: Any, internet: Internet, size: int) -> None:
    body = b"x" * size
    assert post(body=body) == 200
    assert internet.requests[0].partition("\r\n\r\n")[2].encode() == body


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed(post: Any, internet: Internet, status: int) -> None:
    internet.answers["/hook"] = redirect("https://dataset.test/other", status)
    assert post() == status
    assert len(internet.requests) == 1


@pytest.mark.parametrize("status", [400, 404, 410, 500, 503])
def test_what_is_no_success_is_told_as_it_is(post: Any, internet: Internet, status: int) -> None:
    internet.answers["/hook"] = f"HTTP/1.1 {status} No\r\n\r\n".encode()
    assert post() == status


def test_private_addresses_are_refused(post: Any, internet: Internet) -> None:
    for addresses in (["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["169.254.169.254"], []):
        internet.addresses["dataset.test"] = addresses
        with pytest.raises(RemoteRefused, match="private or reserved"):
            post()
    assert internet.connected == []


def test_a_second_answer_of_the_resolver_changes_nothing(post: Any, internet: Internet) -> None:
    """DNS rebinding: public when judged, private a moment later."""
    lookups: list[str] = []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        lookups.append(host)
        address = PUBLIC if len(lookups) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    internet.resolve = resolve  # type: ignore[method-assign]
    assert post() == 200
    assert lookups == ["dataset.test"] and internet.connected == [(PUBLIC, 443)]
    with pytest.raises(RemoteRefused, match="private or reserved"):
        post()
    assert len(internet.connected) == 1


def test_certificates_are_verified_before_anything_is_sent(post: Any, internet: Internet) -> None:
    internet.addresses["wrong.test"] = [PUBLIC]
    with pytest.raises(ssl.SSLCertVerificationError):
        post("https://wrong.test/hook?secret")
    internet.context = ssl.create_default_context  # type: ignore[method-assign, assignment]
    with pytest.raises(ssl.SSLCertVerificationError):
        post()
    assert internet.requests == []


@pytest.mark.parametrize("stage", ["silence", "status", "headers"])
def test_time_is_limited_however_slowly_the_answer_drips(post: Any, internet: Internet, stage: str) -> None:
    def drip(client: ssl.SSLSocket, request: str) -> None:
        client.sendall({"silence": b"", "status": b"HTTP/1.1 ", "headers": b"HTTP/1.1 200 OK\r\nA: "}[stage])
        if stage == "silence":
            client.recv(1)  # until the other side gives up
            return
        for _ in range(200):
            time.sleep(0.05)
            client.sendall(b"1")

    internet.answers["/hook"] = drip
    with pytest.raises(TimeoutError):
        post(timeout_s=0.3)


def test_time_is_limited_where_nobody_reads_the_body(post: Any, internet: Internet) -> None:
    given_up = threading.Event()
    internet.answer = lambda client: given_up.wait(10)  # type: ignore[method-assign, assignment]
    with pytest.raises(TimeoutError):
        post(body=bytes(32 * 2**20), timeout_s=0.3)
    given_up.set()


def test_the_body_of_an_answer_is_not_waited_for(post: Any, internet: Internet) -> None:
    def answer(client: ssl.SSLSocket, request: str) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n")
        client.recv(1)  # until the other side has closed

    internet.answers["/hook"] = answer
    assert post() == 200


@pytest.mark.parametrize("start", [b"HTTP/1.1 100 Continue\r\n", b"HTTP/1.1 200 OK\r\n"])
def test_an_answer_without_end_is_cut_off(post: Any, internet: Internet, start: bytes) -> None:
    sent = 0

    def pour(client: ssl.SSLSocket, request: str) -> None:
        nonlocal sent
        while sent < 100 * MAX_ANSWER_BYTES:
            client.sendall(start + b"A: " + b"a" * 20_000 + b"\r\n\r\n")
            sent += 20_000

    internet.answers["/hook"] = pour
    try:
        assert post() == 200
    except ConnectionError:
        assert start.startswith(b"HTTP/1.1 100")
    assert sent < 100 * MAX_ANSWER_BYTES


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/9.9 200 OK\r\n\r\n", b"\0" * 200_000,
     b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500 + b"\r\n"],
)  # fmt: skip
def test_answers_that_are_no_http_are_failures_of_the_moment(post: Any, internet: Internet, answer: bytes) -> None:
    internet.answers["/hook?secret"] = answer
    with pytest.raises(OSError) as error:
        post("https://dataset.test/hook?secret")
    assert "secret" not in str(error.value)


def test_nobody_there_is_an_error_of_the_system(post: Any, internet: Internet) -> None:
    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        raise ConnectionRefusedError(111, "Connection refused")

    internet.connect = connect  # type: ignore[method-assign]
    with pytest.raises(ConnectionRefusedError):
        post()


def test_messages_do_not_repeat_what_a_query_may_hold(post: Any, internet: Internet) -> None:
    internet.addresses["dataset.test"] = ["10.0.0.1"]
    with pytest.raises(RemoteRefused) as error:
        post("https://dataset.test/hook?token=secret#secret")
    assert "dataset.test/hook" in str(error.value) and "secret" not in str(error.value)
