"""Calls of the HTTP API that were made to do harm: refused, counted, and without a trace in the answers or the log.

Every answer is looked through for paths of this machine and for the key. At the end the server works as before.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from api_calls import APP, ApiClient, data_uri
from attacker import Attacker, huge_png
from dataset_forge import quoted_overlap_bomb
from datasets import dataset_zip, picture

MIN_REFUSED = 400
TRAINER = f"/fal/queue/{APP}/trainer"
IMAGES = f"/fal/queue/{APP}/lora"
FROM_IMAGE = f"/fal/queue/{APP}/image-to-image/lora"
TRAIN_MODEL = "/ideogram/v1/ideogram-v4/train-model"
MAX_OPEN = 200


@pytest.fixture(scope="module")
def server(start_api_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Without a private address that its owner allows."""
    with start_api_server(tmp_path_factory.mktemp("hostile"), IDEOGRAM4_ALLOW_HOSTS="") as server:
        yield server


@pytest.fixture(scope="module")
def attacker(server: SimpleNamespace, standard_models: Path) -> Attacker:
    root = Path(__file__).resolve().parents[2]
    return Attacker(server, [str(server.base), str(standard_models), str(root), server.key])


@pytest.fixture(scope="module")
def trained(server: SimpleNamespace) -> dict[str, Any]:
    """A request that has files, and is nobody else's business."""
    client = ApiClient(server)
    request_id = client.train(100)
    return {"id": request_id, "file": client.result(request_id)["diffusers_lora_file"]["file_name"]}


@pytest.fixture(scope="module")
def operations(attacker: Attacker) -> list[tuple[str, str]]:
    """Method and path of all that is served."""
    document = json.loads(attacker.ask("GET", "/fal/openapi.json").text)
    paths = {re.sub(r"{\w+}", "x", path): methods for path, methods in document["paths"].items()}
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


# ---- keys and other sites ------------------------------------------------------------------------------------


def test_nothing_without_the_key(attacker: Attacker, operations: list[tuple[str, str]]) -> None:
    for method, path in operations:
        for place in (path, f"/api{path}"):
            answer = attacker.refuse(401, method, place, key="", error_type="no_key")
            assert answer.headers["WWW-Authenticate"] == "Key"


def test_nothing_with_another_key(attacker: Attacker, server: SimpleNamespace) -> None:
    key = server.key
    wrong = [key.upper(), key[:-1], f"{key}x", f"{key[:3]} {key[3:]}", "\u00e9" * 20, "x" * 20_000]
    for number, one in enumerate(wrong):
        source = f"127.0.1.{number}"
        for more in ({"key": f"Key {one}"}, {"key": f"Bearer {one}"}, {"key": "", "Api_Key": one}):
            sent = {name: value.encode("utf-8").decode("latin-1") for name, value in more.items()}
            too_long = (400, 401, 431)  # aiohttp reads no header of that length
            attacker.refuse(too_long if len(one) > 8000 else 401, "GET", "/ideogram/models", source=source, **sent)
    for no_key in (f"Basic {base64.b64encode(key.encode()).decode()}", key, f"Token {key}"):
        attacker.refuse(401, "GET", "/ideogram/models", key=no_key, error_type="no_key")
    attacker.refuse(401, "GET", f"/ideogram/models?key={key}&Api-Key={key}", key="", error_type="no_key")
    assert attacker.ask("GET", "/ideogram/models", key=f"bearer   {key} ").status == 200


def test_nothing_for_pages_of_other_sites(attacker: Attacker, operations: list[tuple[str, str]]) -> None:
    for method, path in operations:
        attacker.refuse(403, method, path, Origin="https://evil.example")
        attacker.refuse(403, method, path, Sec_Fetch_Site="cross-site")
        attacker.refuse(403, method, path, Sec_Fetch_Site="same-site", Origin="null")


# ---- paths and methods ---------------------------------------------------------------------------------------


def test_no_path_leads_anywhere(attacker: Attacker, trained: dict[str, Any]) -> None:
    tricks = [
        *("..", "../..", "%2e%2e", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%5c..%5cx", "%2fetc%2fpasswd"),
        *("%00", f"{trained['id']}%00", f"{trained['id']}.json", f"{trained['id']}%2f..%2fx", trained["id"].upper()),
        *("x" * 7000, "%F0%9F%92%A5", "%ff%fe", "%0d%0aSet-Cookie:%20a=b", "*", "%25", "{id}", "-1", "con", "a%20b"),
    ]
    own = f"/fal/files/{trained['id']}"
    for trick in tricks:
        for path in (
            f"/fal/queue/{APP}/requests/{trick}",
            f"/fal/queue/{APP}/requests/{trick}/status",
            f"/fal/files/{trick}/0/x",
            f"{own}/{trick}/{trained['file']}",
            f"{own}/0/{trick}",
            f"/ideogram/datasets/{trick}",
            f"/ideogram/models/{trick}",
        ):
            attacker.refuse((400, 403, 404, 405), "GET", path)
        attacker.refuse((400, 404, 405), "PUT", f"/fal/queue/{APP}/requests/{trick}/cancel")
        attacker.refuse((400, 404, 405), "POST", f"/ideogram/datasets/{trick}/upload_assets", b"x")
        target = f"https://queue.fal.run/{APP}/requests/{trick}"
        attacker.refuse(404, "GET", "/fal/proxy", x_fal_target_url=target)
    for target in (
        "https://evil.example/x",
        "https://queue.fal.run.evil.example/x",
        "file:///etc/passwd",
        "https://[",
        "",
    ):
        for method in ("GET", "POST", "PUT"):
            attacker.refuse(404, method, "/fal/proxy", {}, x_fal_target_url=target)
    assert attacker.ask("GET", f"{own}/0/{trained['file']}").status == 200


def test_no_other_method(attacker: Attacker, operations: list[tuple[str, str]]) -> None:
    for path in {path for _, path in operations}:
        known = {method for method, other in operations if other == path}
        for method in {"POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "BREW"} - known:
            attacker.refuse((400, 404, 405), method, path)
        attacker.refuse((401, 404, 405), "HEAD", path, key="")


# ---- bodies --------------------------------------------------------------------------------------------------


def test_no_giant(attacker: Attacker, server: SimpleNamespace) -> None:
    for path in (TRAINER, IMAGES, f"/fal/run/{APP}/trainer", TRAIN_MODEL, "/ideogram/datasets"):
        with attacker.connected() as connection:
            connection.putrequest("POST", path)
            for name, value in _headers(server, "application/json").items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(2**40))
            connection.endheaders()
            assert attacker.answer(connection).status == 413
            attacker.refused += 1
    for path, megabytes in ((TRAIN_MODEL, 4), (TRAINER, 270)):
        with attacker.connected() as connection:
            chunks = (b" " * 2**20 for _ in range(megabytes))
            with contextlib.suppress(ConnectionError, ssl.SSLError):  # refused before all of it was sent
                connection.request("POST", path, chunks, _headers(server, "application/json"), encode_chunked=True)
            with contextlib.suppress(ConnectionError, ssl.SSLError, http.client.HTTPException):
                assert attacker.answer(connection).status == 413
            attacker.refused += 1
    assert not _left(server)


def test_no_waiting_for_a_slow_one(attacker: Attacker, server: SimpleNamespace) -> None:
    """Others are answered meanwhile, and what had arrived of it is gone with it."""
    with contextlib.ExitStack() as stack:
        for path in (TRAINER, IMAGES, TRAIN_MODEL):
            connection = stack.enter_context(attacker.connected())
            connection.putrequest("POST", path)
            for name, value in _headers(server, "application/json").items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(2 * 2**20))
            connection.endheaders(b" " * (2**20 + 2**10) if path != TRAIN_MODEL else b" ")
        assert attacker.ask("GET", "/ideogram/models").status == 200
        assert ApiClient(server).ask("POST", TRAINER, json={}).status_code == 422
    deadline = time.monotonic() + 30
    while _left(server):
        assert time.monotonic() < deadline, _left(server)
        time.sleep(0.05)


def _headers(server: SimpleNamespace, content_type: str) -> dict[str, str]:
    return {"Authorization": f"Key {server.key}", "Content-Type": content_type}


def _left(server: SimpleNamespace) -> list[Path]:
    return [path for path in (server.base / "temp").rglob("*") if path.is_file()]


def test_no_json_that_is_none(attacker: Attacker) -> None:
    bodies = [
        *(b"", b"[]", b"null", b'"x"', b"1", b"{", b"\xff\xfe", b"\x00", b"{}{}", '{"a": 1}'.encode("utf-16")),
        *(
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b'{"steps": NaN}',
            b'{"steps": -Infinity}',
            b'{"steps": %s}' % (b"9" * 5000),
        ),
        *(b'{"prompt": "\\ud800"}', b'{"\\ud800": 1}', b'{"learning_rate": 1e999}', b'{"seed": -1e400}'),
        *(b'{"images_data_url": {}}', b'{"images_data_url": "\\ud800", "models": {"\\ud800": "x"}}'),
    ]
    for path in (TRAINER, IMAGES, FROM_IMAGE, f"/fal/run/{APP}/trainer", TRAIN_MODEL, "/ideogram/datasets"):
        for body in bodies:
            attacker.refuse((400, 422), "POST", path, body)
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"):
            attacker.refuse(415, "POST", path, b"{}", Content_Type=content_type)
    for body in bodies:
        target = f"https://queue.fal.run/{APP}/trainer"
        attacker.refuse((400, 422), "POST", "/fal/proxy", body, x_fal_target_url=target)
    wide = {f"x{number}": number for number in range(50_000)}
    attacker.refuse(422, "POST", TRAINER, wide)


# ---- addresses, data and names -------------------------------------------------------------------------------

ADDRESSES = [
    *("https://127.0.0.1/x", "https://localhost/x", "https://10.0.0.1/x", "https://192.168.1.1/x", "https://[::1]/x"),
    *("https://169.254.169.254/latest/meta-data", "https://2130706433/x", "https://0177.0.0.1/x", "https://0x7f.1/x"),
    *(
        "https://[::ffff:127.0.0.1]/x",
        "https://[fe80::1]/x",
        "https://0.0.0.0/x",
        "https://100.64.0.1/x",
        "https://[fc00::1]/x",
    ),
    *(
        "http://example.com/x",
        "ftp://example.com/x",
        "file:///etc/passwd",
        "gopher://x",
        "https://",
        "https://[",
        "//x",
    ),
    *("https://me:secret@example.com/x", "https://exa mple.com/x", "https://example.com:99999/x", "javascript:1"),
    *("https://127.0.0.1\\@example.com/x", "https://example.com\r\nX: 1/x", "https://\u2460\u2461\u2466.0.0.1/x"),
]


@pytest.mark.parametrize("what", ["webhook", "dataset", "image", "lora"])
def test_no_address_that_is_not_for_everybody(attacker: Attacker, what: str) -> None:
    from urllib.parse import quote

    for address in ADDRESSES:
        path, body = {
            "webhook": (f"{TRAINER}?fal_webhook={quote(address)}", {"images_data_url": data_uri(dataset_zip())}),
            "dataset": (TRAINER, {"images_data_url": address}),
            "image": (FROM_IMAGE, {"prompt": "a disc", "image_url": address}),
            "lora": (IMAGES, {"prompt": "a disc", "loras": [{"path": address}]}),
        }[what]
        answer = attacker.refuse(422, "POST", path, body)
        assert "secret" not in answer.text


def test_no_data_that_is_something_else(attacker: Attacker) -> None:
    def uri(data: bytes, kind: str = "application/zip") -> str:
        return f"data:{kind};base64,{base64.b64encode(data).decode()}"

    for value in (
        *(
            "data:",
            "data:,",
            "data:application/zip;base64,",
            "data:application/zip;base64,@@@",
            "data:application/zip,PK",
        ),
        *(
            uri(b""),
            uri(b"PK\x05\x06" + bytes(18)),
            uri(b"no zip"),
            uri(dataset_zip()[:-40]),
            uri(quoted_overlap_bomb(50, picture(0) + bytes(10_000))),
        ),
    ):
        attacker.refuse(422, "POST", TRAINER, {"images_data_url": value})
    for value in (
        "data:",
        uri(b"no image", "image/png"),
        uri(dataset_zip(), "image/png"),
        uri(huge_png(), "image/png"),
    ):
        attacker.refuse(422, "POST", FROM_IMAGE, {"prompt": "a disc", "image_url": value})


def test_no_name_that_is_a_path(attacker: Attacker, tmp_path: Path) -> None:
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    for name in (
        *(
            "../../secret.safetensors",
            "/etc/passwd",
            str(tmp_path / "secret.safetensors"),
            "..\\..\\secret.safetensors",
        ),
        *("C:\\secret.safetensors", "\x00", "nul", "~/x", "./ideogram4_fp8_scaled.safetensors", "x" * 5000, "\u202e"),
    ):
        inputs = {"images_data_url": data_uri(dataset_zip()), "resolution": "64x64"}
        for kind in ("diffusion_model", "text_encoder", "vae"):
            answer = attacker.ask("POST", TRAINER, {**inputs, "models": {kind: name}})
            assert answer.status == 422
            assert json.loads(answer.text)["detail"][0]["type"] == "model_not_found"
            attacker.refused += 1
        attacker.refuse(422, "POST", IMAGES, {"prompt": "a disc", "loras": [{"path": name}]})
        attacker.refuse((400, 404), "POST", TRAIN_MODEL, {"dataset_id": name, "model_name": "a name"})
        attacker.refuse((400, 404), "POST", TRAIN_MODEL, {"dataset_id": "x", "model_name": name})


# ---- too many ------------------------------------------------------------------------------------------------


def test_no_queue_without_an_end(attacker: Attacker, server: SimpleNamespace) -> None:
    client = ApiClient(server)
    first = client.train(20_000)
    waiting = [client.submit(f"{APP}/lora", prompt="a disc")["request_id"] for _ in range(MAX_OPEN - 1)]
    answer = attacker.refuse(429, "POST", IMAGES, {"prompt": "a disc"}, error_type="queue_full")
    assert int(answer.headers["Retry-After"]) > 0
    server.client.post("/queue", {"clear": True})
    client.request(first, "/cancel", "PUT")
    for one in (first, waiting[0], waiting[-1]):
        client.until(one, "COMPLETED")
        assert client.request(one).status_code == 499


def test_no_guessing(attacker: Attacker, server: SimpleNamespace) -> None:
    guesser = "127.0.0.2"
    for number in range(10):
        attacker.refuse(401, "GET", "/ideogram/models", key=f"Key guess-number-{number}", source=guesser)
    for key in ("Key one-more-guess", None, ""):
        answer = attacker.refuse(429, "GET", "/ideogram/models", key=key, source=guesser)
        assert int(answer.headers["Retry-After"]) > 0
    assert attacker.ask("GET", "/ideogram/models").status == 200, "others must not be kept out"


# ---- afterwards ----------------------------------------------------------------------------------------------


def test_it_works_as_before(attacker: Attacker, server: SimpleNamespace) -> None:
    client = ApiClient(server)
    assert client.result(client.train(100))["diffusers_lora_file"]["file_size"] > 0
    log = server.log.read_text(encoding="utf-8", errors="replace")
    assert server.key not in log
    assert "guess-number" not in log
    ours = [error for error in log.split("Traceback")[1:] if not re.search("BadHttpMessage|LineTooLong", error)]
    assert not ours, "more than requests that aiohttp cannot read"
    assert not _left(server)
    assert attacker.refused >= MIN_REFUSED
    assert not (server.base.parent / "x").exists()
