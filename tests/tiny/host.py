"""A real ComfyUI server as a child process, and a small client for its HTTP API. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PACK_ROOT = Path(__file__).resolve().parents[2]
PACK_FOLDER = "ideogram4-lora-trainer"
# What ComfyUI needs of the pack; without tests and .dev, which hold whole other trees.
PACK_PARTS = (
    *("__init__.py", "pyproject.toml", "nodes", "server", "trainer_core"),
    *("web", "example_workflows", "locales", "subgraphs"),
)
TINY_PACK = Path(__file__).resolve().parent / "tiny_pack"
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 15


class HostError(RuntimeError):
    """The server did not start, refused a request, or a prompt failed in it; the message holds what it said."""


# ---- the process ---------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def install_packs(base: Path, *, tiny: bool) -> None:
    """Put this pack, and the tiny one if asked for, into the custom_nodes folder of a base directory.

    Linked where the system allows links, copied where it does not (Windows without developer mode).
    """
    custom_nodes = base / "custom_nodes"
    custom_nodes.mkdir(parents=True, exist_ok=True)
    (base / "input").mkdir(exist_ok=True)
    pack = custom_nodes / PACK_FOLDER
    pack.mkdir(exist_ok=True)
    for part in PACK_PARTS:
        if (PACK_ROOT / part).exists():
            _link(PACK_ROOT / part, pack / part)
    if tiny:
        _link(TINY_PACK, custom_nodes / "tiny_ideogram4")


def _link(source: Path, target: Path) -> None:
    if target.is_symlink() or target.is_file():
        target.unlink()
    elif target.is_dir():
        shutil.rmtree(target)
    try:
        target.symlink_to(source, target_is_directory=source.is_dir())
    except OSError:
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, target)


def server_command(
    python: Path, comfyui: Path, *, port: int, base: Path, models: Path | None, cpu: bool, extra: tuple[str, ...] = ()
) -> list[str]:
    """The command line of ComfyUI's own main.py, with everything it writes moved below `base`."""
    command = [str(python), str(comfyui / "main.py"), "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:", "--disable-api-nodes"]
    if models is not None:
        command += ["--models-directory", str(models)]
    return command + (["--cpu"] if cpu else []) + list(extra)


@contextlib.contextmanager
def running_server(
    command: list[str],
    *,
    port: int,
    log: Path | None,
    environment: Mapping[str, str] | None = None,
    certificate: Path | None = None,
) -> Iterator[Client]:
    """Start ComfyUI, wait until it answers, yield a client, and end the process on the way out.

    `log` receives what the server prints; None leaves that on the terminal. `environment` is added to this process's
    own. `certificate` is that of a server that the command starts with TLS. Raises `HostError` if it does not start.
    """
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise HostError(f"Port {port} is in use by another program. Choose another one.")
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("wb")) if log else None
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=Path(command[1]).parent,
            env={**os.environ, **(environment or {})},
        )
        stack.callback(stop, process)
        scheme = "https" if certificate else "http"
        client = Client(f"{scheme}://127.0.0.1:{port}", process=process, log=log, certificate=certificate)
        client.wait_until_ready(START_TIMEOUT_S)
        yield client


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a child politely, then firmly; does nothing if it has ended already."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# ---- the client ----------------------------------------------------------------------------------------------


class Client:
    """ComfyUI's HTTP API. Answers are the parsed JSON; a refusal raises `HostError` with the server's words."""

    def __init__(
        self,
        url: str,
        *,
        process: subprocess.Popen[bytes] | None = None,
        log: Path | None = None,
        certificate: Path | None = None,
    ) -> None:
        self.url = url
        # A proxy from the environment must not see, nor answer, requests to this machine.
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if certificate:
            context = ssl.create_default_context(cafile=str(certificate))
            handlers.append(urllib.request.HTTPSHandler(context=context))
        self._opener = urllib.request.build_opener(*handlers)
        self.process = process
        self.log = log
        self.client_id = uuid.uuid4().hex

    def request(self, method: str, path: str, body: Any = None, *, timeout_s: float = 60, raw: bool = False) -> Any:
        """One request; `body` is sent as JSON, or as it is when it is bytes with its content type in a tuple."""
        headers = {}
        data = None
        if isinstance(body, tuple):
            data, headers["Content-Type"] = body
        elif body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with self._opener.open(request, timeout=timeout_s) as response:
                answer = response.read()
        except urllib.error.HTTPError as error:
            raise HostError(f"{method} {path}: HTTP {error.code}: {error.read().decode(errors='replace')}") from error
        return answer if raw else (json.loads(answer) if answer.strip() else None)

    def get(self, path: str, **options: Any) -> Any:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        return self.request("POST", path, {} if body is None else body, **options)

    def wait_until_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process is not None and self.process.poll() is not None:
                raise HostError(f"ComfyUI ended with code {self.process.returncode} while starting.\n{self.log_tail()}")
            with contextlib.suppress(OSError, HostError):
                self.get("/system_stats", timeout_s=5)
                return
            time.sleep(0.2)
        raise HostError(f"ComfyUI did not answer within {timeout_s:.0f} s.\n{self.log_tail()}")

    def upload(self, name: str, content: bytes, *, subfolder: str = "", overwrite: bool = True) -> str:
        """Put a file into ComfyUI's input folder; returns its name relative to that folder."""
        boundary = uuid.uuid4().hex
        fields = {"subfolder": subfolder, "overwrite": str(overwrite).lower(), "type": "input"}
        lines = []
        for key, value in fields.items():
            lines += [f"--{boundary}", f'Content-Disposition: form-data; name="{key}"', "", value]
        lines += [f"--{boundary}", f'Content-Disposition: form-data; name="image"; filename="{name}"']
        lines += ["Content-Type: application/octet-stream", "", ""]
        body = "\r\n".join(lines).encode() + content + f"\r\n--{boundary}--\r\n".encode()
        answer = self.post("/upload/image", (body, f"multipart/form-data; boundary={boundary}"))
        return f"{answer['subfolder']}/{answer['name']}" if answer["subfolder"] else answer["name"]

    def queue(self, workflow: dict[str, Any]) -> str:
        """Queue an API-format workflow; returns its prompt id. Raises `HostError` with the validation errors."""
        return self.post("/prompt", {"prompt": workflow, "client_id": self.client_id})["prompt_id"]

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The finished prompt's record, or None while it is waiting or running."""
        return self.get(f"/history/{prompt_id}").get(prompt_id)

    def interrupt(self, prompt_id: str | None = None) -> None:
        self.post("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def wait(self, prompt_id: str, *, timeout_s: float = 300) -> dict[str, Any]:
        """Block until the prompt ended, well or not, and return its record."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if (record := self.history(prompt_id)) is not None:
                return record
            if self.process is not None and self.process.poll() is not None:
                raise HostError(f"ComfyUI ended with code {self.process.returncode}.\n{self.log_tail()}")
            time.sleep(0.1)
        raise HostError(f"The prompt did not finish within {timeout_s:.0f} s.\n{self.log_tail()}")

    def run(self, workflow: dict[str, Any], *, timeout_s: float = 300) -> dict[str, Any]:
        """Queue, wait, and return the outputs by node id. Raises `HostError` with the failing node's message."""
        record = self.wait(self.queue(workflow), timeout_s=timeout_s)
        if record["status"]["status_str"] != "success":
            raise HostError(failure(record))
        return record["outputs"]

    def log_tail(self, lines: int = 60) -> str:
        """The end of what the server printed."""
        if self.log is None or not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def failure(record: dict[str, Any]) -> str:
    """What went wrong in a finished prompt, as one text."""
    for kind, detail in record["status"]["messages"]:
        if kind == "execution_error":
            trace = "".join(detail.get("traceback", []))
            return f"{detail['node_type']}: {detail['exception_type']}: {detail['exception_message']}\n{trace}"
        if kind == "execution_interrupted":
            return f"interrupted in {detail.get('node_type')}"
    return json.dumps(record["status"])


def by_class(workflow: dict[str, Any], class_type: str) -> dict[str, Any]:
    """The one node of that class in an API-format workflow. Raises `HostError` if there is not exactly one."""
    found = [node for node in workflow.values() if node["class_type"] == class_type]
    if len(found) != 1:
        raise HostError(f"The workflow has {len(found)} nodes of class {class_type}; exactly one is expected.")
    return found[0]
