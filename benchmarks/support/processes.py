"""Starts the processes that measure, and collects what they found until a deadline."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .cases import Case, Setup

BENCHMARKS = Path(__file__).resolve().parents[1]


def measure_in_a_process(
    setup: Setup, cases: Sequence[Case], *, model: Path | None = None, timeout_s: float | None = None
) -> dict[str, dict[str, Any]]:
    """Results by label: of every case, an error where it gave no figures.

    `model` is a file of the format of the cases; without it the process makes the model itself.
    """
    with tempfile.TemporaryDirectory() as name:
        spec, results, log = Path(name) / "spec.json", Path(name) / "results", Path(name) / "log"
        content = {
            "setup": dataclasses.asdict(setup),
            "cases": [dataclasses.asdict(case) for case in cases],
            "model": str(model or ""),
        }
        spec.write_text(json.dumps(content), encoding="utf-8")
        command = [sys.executable, "-m", "support.worker", str(spec), str(results)]
        ended = run_to_deadline(command, log, timeout_s, folder=BENCHMARKS)
        found = _lines(results)
        missing = {"error": ended or _last_line(log)}
        return {case.label: found.get(case.label, missing) for case in cases}


def write_model_in_a_process(path: Path, setup: Setup, fmt: str) -> None:
    """`models.write_model`, in a process whose memory does not count. Raises `CalledProcessError`."""
    code = (
        "import sys; from pathlib import Path; from support import models, pack; pack.load_comfyui();"
        "models.write_model(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])"
    )
    arguments = [str(path), str(setup.blocks), fmt, setup.width]
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=BENCHMARKS, check=True)


def run_to_deadline(command: Sequence[str], log: Path, timeout_s: float | None, *, folder: Path) -> str:
    """Run in `folder`, with the output in `log`; "" or why it was ended early. Its children end with it."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=os.name != "nt"
        )
        try:
            process.wait(timeout_s)
            return ""
        except subprocess.TimeoutExpired:
            return "no time left"
        finally:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL) if os.name != "nt" else process.kill()
            process.wait()


def _lines(results: Path) -> dict[str, dict[str, Any]]:
    """What was written; a line that was cut off by the end of the process does not count."""
    found = {}
    for line in results.read_text(encoding="utf-8").splitlines() if results.is_file() else []:
        with contextlib.suppress(ValueError):
            values = json.loads(line)
            found[values.pop("label")] = values
    return found


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it ended without a word"
