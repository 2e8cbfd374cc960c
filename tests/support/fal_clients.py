"""fal's own clients, unmodified, as child processes that call a ComfyUI of ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "e2e"
NODE_PACKAGES = SCRIPTS.parents[1] / ".dev" / "browser"
TIMEOUT_S = 300


def environment(server: SimpleNamespace, key: str = "") -> dict[str, str]:
    """What sends the Python client to `server`: two hosts and a key."""
    host = server.api.removeprefix("https://")
    return {
        **os.environ,
        "FAL_KEY": key or server.key,
        "FAL_RUN_HOST": f"{host}/fal/run",
        "FAL_QUEUE_RUN_HOST": f"{host}/fal/queue",
        "SSL_CERT_FILE": str(server.certificate),
        "NODE_EXTRA_CA_CERTS": str(server.certificate),
        "NODE_PACKAGES": str(NODE_PACKAGES),
        "NO_PROXY": "*",
    }


def python(server: SimpleNamespace, call: str, *, key: str = "", **values: Any) -> Any:
    """What a function of tests/e2e/fal_python.py returns."""
    return finished(begin(server, call, key=key, **values))


def begin(server: SimpleNamespace, call: str, *, key: str = "", **values: Any) -> subprocess.Popen[str]:
    """As `python`, without waiting for it."""
    command = [sys.executable, str(SCRIPTS / "fal_python.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, env=environment(server, key), **pipes)
    assert process.stdin
    process.stdin.write(json.dumps({"call": call, **values}))
    process.stdin.close()
    process.stdin = None  # `communicate` would flush it
    return process


def finished(process: subprocess.Popen[str]) -> Any:
    output, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


def javascript(server: SimpleNamespace, **values: Any) -> Any:
    """What tests/e2e/fal_javascript.mjs prints. Skips the test where Node.js or the client are missing."""
    node = shutil.which("node")
    if node is None or not (NODE_PACKAGES / "node_modules" / "@fal-ai" / "client").is_dir():
        pytest.skip("Node.js or @fal-ai/client is missing")
    done = subprocess.run(
        [node, str(SCRIPTS / "fal_javascript.mjs")],
        input=json.dumps({"api": server.api, **values}),
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
        env=environment(server),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
