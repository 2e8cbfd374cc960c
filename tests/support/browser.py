"""Node scripts that drive ComfyUI's own frontend in headless Chromium. Standard library only.

Needed: Chromium, Node.js, and playwright-core installed in the folder PLAYWRIGHT_CORE (default `.dev/browser`):

    apt install chromium nodejs npm
    python dev.py test                      (installs playwright-core where npm is there)
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tests" / "e2e"
TIMEOUT_S = 600


class BrowserError(RuntimeError):
    """A script failed; the message holds what it printed."""


def missing() -> str:
    """What is not installed, as the reason for a skipped test; "" when everything is there."""
    if _chromium() is None:
        return "Chromium is not installed"
    if _node() is None:
        return "Node.js is not installed"
    if not (_modules() / "node_modules" / "playwright-core").is_dir():
        return f"playwright-core is not installed: npm install --prefix {_modules()} playwright-core"
    return ""


def run_script(name: str, payload: dict[str, Any]) -> Any:
    """Run `tests/e2e/<name>` with `payload` as JSON on its stdin; return the JSON it prints, None for nothing.

    Raises `BrowserError`.
    """
    environment = {**os.environ, "CHROMIUM": str(_chromium()), "PLAYWRIGHT_CORE": str(_modules())}
    done = subprocess.run(
        [str(_node()), str(SCRIPTS / name)],
        check=False,
        input=json.dumps(payload),
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        env=environment,
    )
    if done.returncode:
        raise BrowserError(f"{name} failed:\n{done.stderr or done.stdout}")
    return json.loads(done.stdout) if done.stdout.strip() else None


def _chromium() -> str | None:
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


def _node() -> str | None:
    return shutil.which("node")


def _modules() -> Path:
    return Path(os.environ.get("PLAYWRIGHT_CORE") or ROOT / ".dev" / "browser").resolve()
