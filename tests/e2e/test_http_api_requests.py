"""Requests in ComfyUI's own queue: their order, their end, and what is left of them when the server is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from api_calls import ApiClient, data_uri
from datasets import dataset_zip
from webhook_receiver import receiver

LONG = 20_000
"""Steps of a training that is cancelled before it ends."""
RESUMED = 250
"""Of one that is interrupted and ends later."""


@pytest.fixture
def client(api_server: SimpleNamespace) -> ApiClient:
    return ApiClient(api_server)


@pytest.fixture(scope="module")
def undisturbed(api_server: SimpleNamespace) -> bytes:
    """The tensors of a training that nothing has interrupted."""
    client = ApiClient(api_server)
    return _tensors(client, client.result(client.train(RESUMED)))


# ---- two clients at once -------------------------------------------------------------------------------------


def test_the_queue_keeps_its_order_and_tells_it(api_server: SimpleNamespace, client: ApiClient) -> None:
    other = ApiClient(api_server)
    first = client.train(LONG)
    client.until(first, "IN_PROGRESS", step=1)
    second = other.train(100)
    of_the_page = api_server.client.queue(_page_prompt())
    third = client.train(LONG)

    assert [client.status(one)["queue_position"] for one in (second, third)] == [1, 3]
    assert other.request(third, "/cancel", "PUT").json() == {"status": "CANCELLATION_REQUESTED"}
    assert client.status(third)["error_type"] == "client_cancelled"
    assert client.status(first)["status"] == "IN_PROGRESS"
    assert client.status(second)["queue_position"] == 1

    client.request(first, "/cancel", "PUT")
    assert client.until(first, "COMPLETED")["error_type"] == "client_cancelled"
    assert other.result(second)["config_file"]["file_size"] > 0
    assert api_server.client.wait(of_the_page)["status"]["status_str"] == "success"
    assert client.request(first, "/cancel", "PUT").status_code == 400
    assert client.request(first).status_code == 499


def test_what_the_page_does_to_a_request_is_told(api_server: SimpleNamespace, client: ApiClient) -> None:
    running, waiting = client.train(LONG), client.train(LONG)
    client.until(running, "IN_PROGRESS", step=1)
    queue = api_server.client.get("/queue")
    (pending,) = (item[1] for item in queue["queue_pending"])
    api_server.client.post("/queue", {"delete": [pending]})
    api_server.client.interrupt()
    assert "out of ComfyUI's queue" in client.until(waiting, "COMPLETED")["error"]
    assert client.until(running, "COMPLETED")["error_type"] == "client_cancelled"


def test_a_cancelled_request_is_resumed(client: ApiClient, undisturbed: bytes) -> None:
    request = client.train(RESUMED)
    client.until(request, "IN_PROGRESS", step=20)
    client.request(request, "/cancel", "PUT")
    stopped = client.until(request, "COMPLETED")["progress"]["step"]
    assert client.request(request, "/resume", "POST").json()["status"] == "IN_QUEUE"
    result = client.result(request)
    logs = [line["message"] for line in client.status(request)["logs"]]
    assert f"Going on at step {stopped} of {RESUMED}." in logs
    assert client.request(request, "/resume", "POST").status_code == 409
    assert _tensors(client, result) == undisturbed


def test_a_client_that_calls_again_gets_the_same_training(api_server: SimpleNamespace, client: ApiClient) -> None:
    """As fal's clients do by themselves when a connection breaks."""
    body = {"images_data_url": data_uri(dataset_zip()), "steps": LONG, "resolution": "64x64"}
    seen = []
    for _ in range(2):
        with pytest.raises(requests.exceptions.ReadTimeout):
            client.ask("POST", "/fal/run/ideogram/v4/trainer", json=body, timeout_s=2)
        queue = api_server.client.get("/queue")
        seen += [item[1] for item in (*queue["queue_running"], *queue["queue_pending"])]
    first, second = seen
    assert first == second
    client.until(first, "IN_PROGRESS", step=1)
    client.request(first, "/cancel", "PUT")
    client.until(first, "COMPLETED")


# ---- webhooks ------------------------------------------------------------------------------------------------


def test_a_webhook_tells_the_end(client: ApiClient, tmp_path: Path) -> None:
    with receiver(tmp_path) as hook:
        good = client.train(100, webhook=hook.url)
        told = hook.next()
        assert (told["request_id"], told["status"]) == (good, "OK")
        assert told["payload"] == client.result(good)
        bad = client.train(LONG, webhook=hook.url)
        client.request(bad, "/cancel", "PUT")
        told = hook.next()
        assert (told["request_id"], told["status"]) == (bad, "ERROR")
        assert told["error"] == "The request was cancelled."
    refused = client.ask("POST", "/fal/queue/ideogram/v4/trainer?fal_webhook=https://10.0.0.1/x", json={})
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["query", "fal_webhook"]


# ---- a server that is killed ---------------------------------------------------------------------------------


def test_a_killed_server_comes_back_with_the_truth(
    start_api_server: Callable[..., Any], tmp_path: Path, undisturbed: bytes
) -> None:
    with start_api_server(tmp_path) as server:
        client = ApiClient(server)
        done = client.train(100)
        before = client.result(done)
        running = client.train(RESUMED)
        waiting = client.train(100)
        client.until(running, "IN_PROGRESS", step=20)
        server.client.process.kill()
        server.client.process.wait()

    with start_api_server(tmp_path, port=server.port) as server:
        client = ApiClient(server)
        assert client.request(done).json() == before
        for request in (running, waiting):
            status = client.status(request)
            assert (status["status"], status["error_type"]) == ("COMPLETED", "server_restarted")
            assert client.request(request).json()["error_type"] == "server_restarted"
        assert client.request(waiting, "/resume", "POST").ok
        assert client.request(running, "/resume", "POST").ok
        assert client.result(waiting)["config_file"]
        result = client.result(running)
        assert any("Going on at step" in line["message"] for line in client.status(running)["logs"])
        resumed = _tensors(client, result)
    assert resumed == undisturbed


def _tensors(client: ApiClient, result: dict[str, Any]) -> bytes:
    """What follows the header, in which the title and the date differ."""
    content = client.file(result["diffusers_lora_file"])
    return content[8 + int.from_bytes(content[:8], "little") :]


def _page_prompt() -> dict[str, Any]:
    """A quick prompt, as somebody at the page would queue it."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
