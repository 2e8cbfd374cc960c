"""Everything that needs a GPU, in one call: speed, memory, equality and tests, at the released size.

Usage: python benchmarks/gpu.py [--minutes 9] [--only NAMES] [--comfyui PATH] [--out FOLDER]

Needs a Python with torch for the GPU, ComfyUI's requirements and peft; for the other columns diffusers too. ComfyUI is
the one in COMFYUI_ROOT or .dev/, or `--comfyui`: a folder, or a tar archive of one. Nothing is downloaded: models of
34 blocks with random weights are made on the GPU. The parts, the most important first, each in processes of its own:
what one dies of is written in its place, and when the time is over the rest is left out. The report is written anew
after every part: report.md and results.json in FOLDER (.dev/gpu).

`--device cpu --blocks 1 --width tiny --size 64` tries the whole script without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from support import pack, tables
from support.absent import write_placeholders
from support.cases import Case, Setup
from support.models import WIDTHS
from support.processes import measure_in_a_process, run_to_deadline

REFERENCE = Case(contender="ours", fmt="bf16", mode="resident")
LEAST_S = 20
"""With less time left nothing more is begun."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A process and its cases; `tests` stands for pytest."""

    name: str
    setup: Setup
    cases: Sequence[Case]


def all_parts(options: argparse.Namespace) -> list[Part]:
    """What is measured, the most important first."""
    setup = Setup(
        device=options.device,
        blocks=options.blocks,
        width=options.width,
        size=options.size,
        rank=options.rank,
        text_tokens=options.text_tokens,
        steps=options.steps,
        warmup=min(2, options.steps - 2),
    )
    few = dataclasses.replace(setup, blocks=min(2, options.blocks), size=min(512, options.size), rank=8)
    plain = "fp32" if options.device == "cpu" else "bf16"

    def ours(fmt: str, *modes: str, **more: Any) -> list[Case]:
        return [Case(contender="ours", fmt=fmt, mode=mode, **more) for mode in modes]

    def cards(fmt: str, *sizes: float) -> list[Case]:
        return [case for size in sizes for case in ours(fmt, "auto", limit_gib=size)]

    both = ((), ("kept",))
    recomputed: dict[str, Any] = {"options": ("recomputed",)}
    modes = ("resident", "offloaded", "streamed")
    fp8 = [*ours("fp8_scaled", modes[0]), *ours("fp8_scaled", modes[0], **recomputed), *ours("fp8_scaled", *modes[1:])]
    bf16 = [*ours("bf16", modes[0]), *ours("bf16", modes[0], **recomputed), *ours("bf16", *modes[1:])]
    checks = ("modes agree", "resume")
    return [
        Part("fp8", setup, [*fp8, *cards("fp8_scaled", 24, 16, 12)]),
        Part("native", setup, [Case(contender="native", options=kept) for kept in both]),
        Part("bf16", setup, bf16),
        Part("diffusers", setup, [Case(contender="diffusers", fmt=plain, options=kept) for kept in both]),
        Part("floor", setup, [Case(contender="floor", fmt=plain, options=kept) for kept in both]),
        Part("tests", few, []),
        Part("checks-bf16", few, [Case(contender=name) for name in checks]),
        Part("checks-fp8", few, [Case(contender=name, fmt="fp8_scaled") for name in checks]),
        Part("quantized", setup, ours("fp8_scaled", "resident", options=("quantized",))),
        Part("compiled", setup, ours("bf16", "resident", options=("compiled",))),
        Part("both", setup, ours("fp8_scaled", "resident", options=("compiled", "quantized"))),
        Part("nvfp4", setup, [*ours("nvfp4", *modes), *cards("nvfp4", 12)]),
        Part("int8", setup, [*ours("int8_convrot", *modes), *ours("int8_convrot", "resident", options=("quantized",))]),
        Part("native-fp8", setup, [Case(contender="native", fmt="fp8_scaled", options=("native_dtype",))]),
        Part("dynamic", setup, ours("fp8_scaled", "resident", "streamed", options=("dynamic",))),
        Part("ceilings", setup, [Case(contender="ceilings", fmt="")]),
    ]


# ---- ComfyUI -------------------------------------------------------------------------------------------------


def find_comfyui(path: Path | None, scratch: Path) -> Path:
    """The folder of ComfyUI: `path`, or what the archive `path` holds, or the one that the project uses."""
    root = path or pack.comfyui_root()
    if root.is_file():
        with tarfile.open(root) as archive:
            archive.extractall(scratch, filter="data")
        mains = sorted(scratch.rglob("main.py"), key=lambda file: len(file.parts))
        root = next((main.parent for main in mains if (main.parent / "comfy").is_dir()), scratch)
    if not (root / "comfy").is_dir():
        sys.exit(f"No ComfyUI at {root}. Give a folder or an archive with --comfyui, or run `python dev.py test` once.")
    return root.resolve()


def prepare_environment(comfyui: Path, scratch: Path) -> list[str]:
    """Tell the processes to come where everything is; modules that stand-ins were made for."""
    missing = write_placeholders(scratch / "absent")
    paths = [os.environ.get("PYTHONPATH"), str(scratch / "absent")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    os.environ["COMFYUI_ROOT"] = str(comfyui)
    return missing


# ---- running -------------------------------------------------------------------------------------------------


def begin_to_build_tiny_models() -> None:
    """What the tests train on takes a CPU core a minute; nobody waits for it until then. Made once, kept in .dev/."""
    build = pack.ROOT / "tests" / "tiny" / "build.py"
    arguments = ["--comfyui", str(pack.comfyui_root()), "--dev", str(pack.ROOT / ".dev")]
    subprocess.Popen([sys.executable, str(build), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run_tests(options: argparse.Namespace, out: Path, timeout_s: float) -> dict[str, Any]:
    """tests/gpu on this device: the last line of pytest, whose whole output goes to tests.log."""
    log = out / "tests.log"
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-v", "--tb=short"]
    with environment(TEST_DEVICE=options.device):
        ended = run_to_deadline(command, log, timeout_s, folder=pack.ROOT)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"tests": [*failed, ended or (lines[-1] if lines else "no output")]}


@contextlib.contextmanager
def environment(**variables: str) -> Any:
    """Environment variables for child processes."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run_parts(parts: Sequence[Part], options: argparse.Namespace, out: Path, about: dict[str, Any]) -> None:
    """Measure until the time is over; write the report after every part."""
    deadline = time.monotonic() + options.minutes * 60
    results: dict[str, dict[str, Any]] = {}
    about["seconds"] = {}
    if any(part.name == "tests" for part in parts):
        begin_to_build_tiny_models()
    for part in parts:
        started = time.monotonic()
        left = deadline - started
        if left < LEAST_S:
            about["left out"] = [*about.get("left out", []), part.name]
        elif part.name == "tests":
            about.update(run_tests(options, out, left))
        else:
            results.update(measure_in_a_process(part.setup, part.cases, timeout_s=left))
        about["seconds"][part.name] = round(time.monotonic() - started, 1)
        write_report(out, about, results)
        print(f"{part.name}: {about['seconds'][part.name]} s", file=sys.stderr, flush=True)


def write_report(out: Path, about: dict[str, Any], results: dict[str, dict[str, Any]]) -> None:
    """report.md and results.json."""
    columns = tables.GPU_COLUMNS if about["cuda"] else tables.HOST_COLUMNS
    measured = [label for label, figures in results.items() if "seconds" in figures]
    reference = REFERENCE.label if REFERENCE.label in measured else next(iter(measured), "")
    said = [
        f"- {label}: {' '.join([figures['plan'], *figures.get('notes', [])])[:500]}"
        for label, figures in results.items()
        if "plan" in figures
    ]
    sections = [
        "\n".join(f"{name}: {value}  " for name, value in about.items() if name not in ("cuda", "tests")),
        f"Ratios are to: {reference}",
        tables.table(results, reference, columns),
        "Most that a run allocated beside the weights that were there, as it predicted and as it measured it:",
        tables.predictions(results),
        "Checks:",
        tables.checks(results),
        "Tests:",
        "\n".join(f"    {line}" for line in about.get("tests", ["not run"])),
        "What the runs said:",
        "\n".join(said),
    ]
    (out / "report.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    content = json.dumps({"about": about, "results": results}, indent=1)
    (out / "results.json").write_text(content, encoding="utf-8")


# ---- command line --------------------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing, and go on with nothing, after that")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts by name, in this order; `list` prints them")
    parser.add_argument("--comfyui", type=Path, help="a folder, or a tar archive of one")
    parser.add_argument("--out", type=Path, default=pack.ROOT / ".dev" / "gpu")
    parser.add_argument("--blocks", type=int, default=34)
    parser.add_argument("--width", choices=WIDTHS, default="real")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--text-tokens", type=int, default=128)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8, help="of each case; two of them are not counted")
    options = parser.parse_args()
    if options.steps < 3:
        parser.error("--steps must be 3 or more")
    return options


def chosen_parts(options: argparse.Namespace) -> list[Part]:
    """The parts that `--only` names, or all."""
    parts = {part.name: part for part in all_parts(options)}
    unknown = sorted(set(options.only or []) - set(parts))
    if unknown:
        sys.exit(f"The parts are: {' '.join(parts)}")
    return [parts[name] for name in options.only or parts]


def main() -> None:
    options = parse()
    parts = chosen_parts(options)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("No CUDA device. `--device cpu --blocks 1 --width tiny --size 64` tries the script without one.")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="gpu-benchmark-"))
    try:
        comfyui = find_comfyui(options.comfyui, scratch / "comfyui")
        missing = prepare_environment(comfyui, scratch)
        on_gpu = options.device == "cuda"
        memory = f", {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB" if on_gpu else ""
        size = f"{options.size}x{options.size}, {options.text_tokens} text tokens, rank {options.rank}, batch 1"
        about = {
            "command": shlex.join(["python", "benchmarks/gpu.py", *sys.argv[1:]]),
            "device": torch.cuda.get_device_name() + memory if on_gpu else "CPU",
            "machine": pack.machine(),
            "versions": pack.versions(),
            "allocator": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "torch's default"),
            "network": f"{options.blocks} blocks, {options.width} width; {size}",
            "stand-ins": missing,
            "cuda": on_gpu,
        }
        run_parts(parts, options, options.out, about)
        print((options.out / "report.md").read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
