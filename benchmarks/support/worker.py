"""A process that measures some cases of one model, one after the other.

    python -m support.worker SPEC RESULTS     (in benchmarks/)

SPEC is a JSON file: `setup`, `cases`, and `model`, the path of a file or "". RESULTS gets a line of JSON for each case
as soon as it is done, so that whatever ends the process leaves what was measured before.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from . import checks, models, native, others, ours, pack
from .cases import Case, Setup, case_from_json, setup_from_json
from .meter import GIB, Meter

CONTENDERS = ("floor", "ours", "native", "diffusers", "modes agree", "resume", "ceilings")
WITHOUT_MODEL = ("floor", "diffusers", "ceilings")


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    setup, cases = setup_from_json(spec["setup"]), [case_from_json(values) for values in spec["cases"]]
    pack.load_comfyui(setup.device, dynamic_vram="dynamic" in cases[0].options)
    if setup.width != "real":
        pack.load_tiny_sizes()
    patcher = None
    if cases[0].contender not in WITHOUT_MODEL:
        patcher = models.load_model(Path(spec["model"])) if spec["model"] else _make(setup, cases[0])
    for case in cases:
        _tidy_up(setup, case)
        result: dict[str, Any] = {"label": case.label}
        try:
            result.update(measure(setup, case, patcher))
        except BaseException as error:
            # Boundary of a case: whatever it dies of, out of memory included, the next one has its turn.
            result["error"] = f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0][:300]}"
            result["traceback"] = traceback.format_exc()[-4000:]
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
        finally:
            with Path(sys.argv[2]).open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")


def measure(setup: Setup, case: Case, patcher: Any) -> dict[str, Any]:
    """The figures of one case."""
    meter = Meter(setup.device, setup.warmup)
    with _limited_memory(setup, case), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs: dict[str, Callable[[], dict[str, Any]]] = {
            "floor": lambda: others.run_floor(setup, case, meter),
            "ours": lambda: ours.run(setup, case, patcher, folder, meter),
            "native": lambda: native.run(setup, case, patcher, meter),
            "diffusers": lambda: others.run_diffusers(setup, case, meter),
        }
        if case.contender in runs:
            said = runs[case.contender]()
            return {**meter.stop(), **said}
        if case.contender == "ceilings":
            return ceilings(setup.device)
        check = {"modes agree": checks.modes_agree, "resume": checks.resume}[case.contender]
        return {"check": check(setup, case, patcher, folder)}


def _make(setup: Setup, case: Case) -> Any:
    def on(device: str) -> Any:
        for_nodes = case.contender != "native"
        return models.make_model(setup.blocks, case.fmt, setup.width, device, for_nodes=for_nodes)

    try:
        return on(setup.device)
    except (RuntimeError, ValueError):
        # A card may have no kernel that quantises to this format. The CPU does it too.
        return on("cpu")


@contextmanager
def _limited_memory(setup: Setup, case: Case) -> Iterator[None]:
    """Let ComfyUI see, and torch give, no more than a smaller card would have."""
    import comfy.model_management as management

    if not case.limit_gib:
        yield
        return
    before, limit = management.EXTRA_RESERVED_VRAM, int(case.limit_gib * GIB)
    total = management.get_total_memory(management.get_torch_device())
    management.EXTRA_RESERVED_VRAM = before + max(0, total - limit)
    _limit_torch(setup, min(1.0, limit / total))
    try:
        yield
    finally:
        management.EXTRA_RESERVED_VRAM = before
        _limit_torch(setup, 1.0)


def _limit_torch(setup: Setup, part: float) -> None:
    if setup.device == "cuda":
        torch.cuda.set_per_process_memory_fraction(part)


def _tidy_up(setup: Setup, case: Case) -> None:
    """Free what the case before had; and the device of the model, where the case is about having less of it there."""
    import comfy.model_management as management

    if case.mode in ("streamed", "auto"):
        with torch.inference_mode():  # as the tensors were made
            management.unload_all_models()
    gc.collect()
    if setup.device == "cuda":
        torch.cuda.empty_cache()


def ceilings(device: str) -> dict[str, Any]:
    """What the machine can do: a large product of random matrices in the compute type, and copies to the device."""
    on_gpu = device == "cuda"
    side, dtype = (8192, torch.bfloat16) if on_gpu else (1024, torch.float32)
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    product = _fastest(lambda: a @ b, device)
    host = torch.empty(2**30 if on_gpu else 2**26, dtype=torch.uint8, pin_memory=on_gpu)
    there = torch.empty_like(host, device=device)
    copy = _fastest(lambda: there.copy_(host, non_blocking=True), device)
    back = _fastest(lambda: host.copy_(there, non_blocking=True), device)
    return {
        "check": {
            f"TFLOP/s, {str(dtype).removeprefix('torch.')} product of {side}": 2 * side**3 / product / 1e12,
            "GB/s to the device": host.numel() / copy / 1e9,
            "GB/s from the device": host.numel() / back / 1e9,
        }
    }


def _fastest(action: Callable[[], Any], device: str) -> float:
    """Seconds of the fastest of some calls."""
    best = float("inf")
    for _ in range(8):
        started = time.perf_counter()
        action()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


if __name__ == "__main__":
    main()
