"""schemathesis against the OpenAPI document that the real server gives of its HTTP API.

Nothing that it asks for is done: a request whose dataset arrives without end keeps ComfyUI's queue from moving, and
what waits behind it is cancelled as soon as it is seen.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from api_calls import APP, ApiClient
from datasets import picture
from tls import write_certificate

SEED = 4
MIN_REQUESTS = 2000
TIMEOUT_S = 240
QUEUE = f"https://queue.fal.run/{APP}"
RUN = f"https://fal.run/{APP}"
HOOKS = Path(__file__).resolve().parents[1] / "support" / "schemathesis_hooks.py"
METHODS = ["PUT", "POST", "DELETE", "PATCH", "TRACE"]
"""That must be refused where the document has none of them. What is asked for by GET, ComfyUI looks for among the files
of its page, and does not find."""


@pytest.fixture(scope="module")
def client(api_server: SimpleNamespace) -> ApiClient:
    return ApiClient(api_server)


@pytest.fixture(scope="module")
def known(api_server: SimpleNamespace, client: ApiClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What is there to be asked about: requests in every state, a dataset to train on, and a model."""
    trained = client.train(100)
    made = client.submit(
        f"{APP}/lora",
        prompt="a disc",
        image_size={"width": 256, "height": 256},
        rendering_speed="TURBO",
        expansion_model="None",
        output_format="png",
    )["request_id"]
    files = client.result(trained)
    (image,) = client.result(made)["images"]
    kept = api_server.base / "user" / "__ideogram4_lora_trainer" / "api"
    folders = [kept / "datasets", kept / "models", api_server.input / "ideogram"]
    before = {path for folder in folders for path in folder.rglob("*")}
    try:
        with endless(tmp_path_factory.mktemp("endless")) as address:
            running = client.submit(images_data_url=address, steps=100)["request_id"]
            client.until(running, "IN_PROGRESS")
            cancelled = client.train(100)
            assert client.request(cancelled, "/cancel", "PUT").status_code == 202
            dataset = client.ask("POST", "/ideogram/datasets", json={"name": "schema"}).json()["dataset_id"]
            pictures = [("files", (f"{index}.png", picture(index))) for index in range(15)]
            uploaded = client.ask("POST", f"/ideogram/datasets/{dataset}/upload_assets", files=pictures)
            assert uploaded.json()["success_count"] == 15
            values = {"dataset_id": dataset, "model_name": "schema", "resolution": "64x64", "default_caption": "a disc"}
            model = client.ask("POST", "/ideogram/v1/ideogram-v4/train-model", json=values).json()["model_id"]
            with nothing_waits(api_server, client):
                yield SimpleNamespace(
                    ended=[trained, made, cancelled],
                    running=running,
                    dataset=dataset,
                    model=model,
                    files=[files["diffusers_lora_file"]["file_name"], image["file_name"]],
                    address=address,
                )
        client.until(running, "COMPLETED")  # its address is gone
    finally:
        # The server is that of other tests too.
        for path in sorted({path for folder in folders for path in folder.rglob("*")} - before, reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


@contextlib.contextmanager
def endless(folder: Path) -> Iterator[str]:
    """The address of a zip that never arrives whole."""
    ended = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(2**20))
            self.end_headers()
            with contextlib.suppress(OSError):
                while not ended.wait(0.2):
                    self.wfile.write(b"P")

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write_certificate(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"https://localhost:{server.server_port}/endless.zip"
        finally:
            ended.set()
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def nothing_waits(server: SimpleNamespace, client: ApiClient) -> Iterator[None]:
    """Cancel whatever waits in ComfyUI's queue, over and over, and once more at the end."""
    ended = threading.Event()

    def cancel_all() -> None:
        for item in server.client.get("/queue")["queue_pending"]:
            client.request(item[1], "/cancel", "PUT")

    def sweep() -> None:
        while not ended.wait(0.03):
            cancel_all()

    thread = threading.Thread(target=sweep)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        cancel_all()


def test_every_answer_is_as_the_document_says(
    api_server: SimpleNamespace, client: ApiClient, known: SimpleNamespace, tmp_path: Path
) -> None:
    before = len(api_server.log.read_text(encoding="utf-8"))
    told = client.ask("GET", "/fal/openapi.json").json()
    # What bodies are right but for one fault are made of; a schema cannot say which addresses and datasets there are.
    models = told["components"]["schemas"]
    models["TrainerInput"]["properties"]["images_data_url"]["examples"] = [known.address]
    models["TrainModel"]["properties"]["dataset_id"]["examples"] = [known.dataset]
    models["TrainModel"]["properties"]["default_caption"]["examples"] = ["a disc"]
    models["TrainModel"]["properties"]["model_name"]["examples"] = ["a model"]
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(told), encoding="utf-8")
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(configured(api_server, known), encoding="utf-8")
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    options = ["--config-file", str(configuration), "run", str(document), "--no-color"]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, check=False, timeout=TIMEOUT_S, cwd=tmp_path
    )
    assert done.returncode in (0, 1), done.stdout[-5000:] + done.stderr
    (report,) = (json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("report/*.json"))
    assert report["failures"] == [], done.stdout[:20_000]
    assert done.returncode == 0, done.stdout[-5000:]
    assert report["operations"]["tested"] == report["operations"]["total"] >= 24
    assert report["test_cases"]["generated"] >= MIN_REQUESTS

    assert client.status(known.running)["status"] == "IN_PROGRESS", "the queue was not kept"
    errors = api_server.log.read_text(encoding="utf-8")[before:].split("Traceback")[1:]
    assert all("BadHttpMessage" in error for error in errors), "more than requests that aiohttp cannot read"


def configured(server: SimpleNamespace, known: SimpleNamespace) -> str:
    """What schemathesis is told, as TOML.

    Left out of its checks, everywhere: `ignored_auth`, because wrong keys are counted and would lock out every test of
    this machine; `missing_required_header`, because no header is required.
    """
    states = [*known.ended, known.running, "00000000-0000-4000-8000-000000000000"]
    requests = f"/fal/queue/{APP}/requests/{{id}}"
    parameters = {
        "path.id": "requests",
        "path.index": "indices",
        "path.name": "names",
        "path.dataset_id": "datasets",
        "path.model_id": "models",
        "body.dataset_id": "datasets",
        "body.images_data_url": "addresses",
        "header.x-fal-target-url": "targets",
        "header.Range": "ranges",
    }
    dictionaries = {
        "requests": states,
        "settled": [*known.ended, states[-1]],
        "indices": [0, 1],
        "names": known.files,
        "ranges": ["bytes=0-9", "bytes=5-", "bytes=999999999-"],
        "datasets": [known.dataset],
        "models": [known.model],
        "addresses": [known.address],
        "targets": [
            *(f"{QUEUE}/requests/{one}{what}" for one in known.ended for what in ("", "/status?logs=1", "/cancel")),
            *(f"{place}/{endpoint}" for place in (QUEUE, RUN) for endpoint in ("trainer", "lora")),
        ],
    }
    return "\n".join(
        [
            f"base-url = {json.dumps(server.api)}",
            f"tls-verify = {json.dumps(str(server.certificate))}",
            f"seed = {SEED}",
            "workers = 1",  # threads of it get in each other's way now and then
            "continue-on-failure = true",
            "request-timeout = 60",
            "warnings = false",
            f"hooks = {json.dumps(str(HOOKS))}",
            f'headers = {{Authorization = "Key {server.key}"}}',
            'reports = {directory = "report", json = {enabled = true}}',
            f"phases = {{stateful = {{enabled = false}}, coverage = {{unexpected-methods = {json.dumps(METHODS)}}}}}",
            "[generation]",
            'database = "none"',
            "deterministic = true",
            "with-security-parameters = false",
            "max-examples = 50",
            "[checks]",
            "ignored_auth.enabled = false",
            "missing_required_header.enabled = false",
            "[dictionaries]",
            *(f"{name} = {{values = {json.dumps(values)}}}" for name, values in dictionaries.items()),
            "[parameters]",
            # In a body always, so that it is refused for what else is wrong with it.
            *(
                f'"{name}" = {{dictionary = "{values}", probability = {1.0 if name.startswith("body.") else 0.6}}}'
                for name, values in parameters.items()
            ),
            *special_cases(requests),
        ]
    )


def special_cases(requests: str) -> list[str]:
    """What holds for some operations only, as TOML."""

    def of(paths: list[str], *lines: str, methods: tuple[str, ...] = ()) -> list[str]:
        chosen = [f"include-method = {json.dumps(methods)}"] if methods else []
        return ["[[operations]]", f"include-path = {json.dumps(paths)}", *chosen, *lines]

    endpoints = [f"{APP}/{name}" for name in ("trainer", "lora", "image-to-image/lora")]
    also = "checks.positive_data_acceptance.expected-statuses = "
    usual = '"2xx", 404, 409'
    return [
        # A schema cannot say which addresses, datasets, files and models there are; what else is wrong is refused.
        *of(
            [f"/fal/{way}/{path}" for way in ("queue", "run") for path in endpoints]
            + [f"/ideogram/v1/ideogram-{version}/train-model" for version in ("v3", "v4")],
            "checks.positive_data_acceptance.enabled = false",
        ),
        # The answer tells what was wrong with each file, and so does it with fields that are none.
        *of(
            ["/ideogram/datasets/{dataset_id}/upload_assets"],
            "checks.positive_data_acceptance.enabled = false",
            "checks.negative_data_rejection.enabled = false",
        ),
        # Not ended yet, ended already, or cancelled.
        *of([requests], f"{also}[{usual}, 400, 499]"),
        *of(
            [f"{requests}/cancel", f"{requests}/resume"],
            f"{also}[{usual}, 400]",
            'parameters = {"path.id" = {dictionary = "settled", probability = 0.6}}',
        ),
        *of(["/fal/files/{id}/{index}/{name}"], f"{also}[{usual}, 416]"),
        *of(["/fal/proxy"], "checks.positive_data_acceptance.enabled = false"),
    ]
