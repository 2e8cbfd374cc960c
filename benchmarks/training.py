"""Seconds per step and peak memory of one training step, ours beside others, on random weights of the released width.

Usage: python dev.py bench training [--blocks N ...] [--size P] [--formats F ...] [--device cpu|cuda] ...

One block is what a CPU can do in minutes, 34 are the released model. Contenders:
  floor      forward, backward and AdamW of the same adapters on one batch in plain torch, and nothing else
  ours       the trainer as its node calls it, in each memory mode and on each base format
  native     ComfyUI's TrainLoraNode through its own code, each block checkpointed
  diffusers  diffusers' transformer and PEFT, stepped as its training script does
Each contender, and each base format, has a process of its own. All are measured once, then all once more, `--rounds`
times; the fastest round counts, since other programs can only slow one down. Within a round it is the median of the
steps after the first. With several numbers of blocks, a last table gives what one block more costs.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from support import pack, tables
from support.cases import FORMATS, Case, Setup
from support.models import WIDTHS
from support.processes import measure_in_a_process, write_model_in_a_process

CONTENDERS = ("floor", "ours", "native", "diffusers")


def processes(options: argparse.Namespace) -> list[list[Case]]:
    """The rows of the table, by the process that measures them. Formats other than the first are for ours alone."""
    base, *others = options.formats
    plain = "fp32" if options.device == "cpu" else "bf16"  # what stores its weights in the type that it computes in
    ours = Case(contender="ours", fmt=base, mode="resident")
    rows = {
        "floor": [[Case(contender="floor", fmt=plain, options=kept) for kept in (("kept",), ())]],
        "ours": [
            [
                ours,
                dataclasses.replace(ours, options=("recomputed",)),
                *(dataclasses.replace(ours, mode=mode) for mode in ("offloaded", "streamed")),
            ],
            *([dataclasses.replace(ours, fmt=fmt)] for fmt in others),
        ],
        "native": [[Case(contender="native", fmt=base)]],
        "diffusers": [[Case(contender="diffusers", fmt=plain)]],
    }
    return [cases for contender in CONTENDERS if contender in options.only for cases in rows[contender]]


def measure(options: argparse.Namespace, blocks: int, folder: Path) -> dict[str, dict[str, Any]]:
    """The best round of each case."""
    setup = Setup(
        device=options.device,
        blocks=blocks,
        width=options.width,
        size=options.size,
        rank=options.rank,
        text_tokens=options.text_tokens,
        steps=options.steps,
        warmup=0,
    )
    files = {fmt: folder / f"ideogram4_random_{blocks}_{fmt}.safetensors" for fmt in options.formats}
    for fmt, file in files.items():
        write_model_in_a_process(file, setup, fmt)
    best: dict[str, dict[str, Any]] = {}
    longest = 0.0
    for number in range(options.rounds):
        begun = time.monotonic()
        if number and begun + longest > options.stop_at:
            print(f"No time for round {number + 1}.", file=sys.stderr)
            break
        for cases in processes(options):
            for label, figures in measure_in_a_process(setup, cases, model=files.get(cases[0].fmt)).items():
                print(f"{label}: {figures.get('error') or format(figures['seconds'], '.3f')}", file=sys.stderr)
                if figures.get("seconds", math.inf) < best.setdefault(label, figures).get("seconds", math.inf):
                    best[label] = figures
        longest = time.monotonic() - begun
    return best


def per_further_block(less: tables.Results, more: tables.Results, blocks: int) -> dict[str, dict[str, Any]]:
    """What each of `blocks` further blocks adds: time and memory that do not belong to what is around the blocks."""
    both = [label for label in more if "seconds" in less.get(label, {}) and "seconds" in more[label]]
    keys = ("seconds", "allocated_gib", "host_peak_gib")
    return {
        label: {
            key: (more[label][key] - less[label][key]) / blocks
            for key in keys
            if more[label].get(key) is not None and less[label].get(key) is not None
        }
        for label in both
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="+", default=[1])
    parser.add_argument("--width", choices=WIDTHS, default="real", help="tiny: to try this script")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS[1:]), choices=FORMATS)
    parser.add_argument("--size", type=int, default=256, help="pixels of each side")
    parser.add_argument("--text-tokens", type=int, default=64)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=9.5, help="begin no further round that would end later")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    options = parser.parse_args()
    options.stop_at = time.monotonic() + 60 * options.minutes
    if options.steps < 2:
        parser.error("--steps must be 2 or more: the first is not counted")
    return options


def main() -> None:
    options = parse()
    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    print(f"    python dev.py bench training {shlex.join(sys.argv[1:])}\n")
    print(f"{device}; {pack.machine()}; threads: {threads}; {pack.versions()}")
    reference = Case(contender="ours", fmt=options.formats[0], mode="resident").label
    columns = tables.GPU_COLUMNS if options.device == "cuda" else tables.HOST_COLUMNS
    results: dict[int, dict[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for blocks in sorted(options.blocks):
            results[blocks] = measure(options, blocks, Path(folder))
            size = f"{options.size}x{options.size}, {options.text_tokens} text tokens, rank {options.rank}, batch 1"
            print(f"\n{blocks} block(s), {size}\n\n{tables.table(results[blocks], reference, columns)}")
    if len(results) > 1:
        least, most = min(results), max(results)
        further = per_further_block(results[least], results[most], most - least)
        print(f"\nA further block\n\n{tables.table(further, reference, columns[:1])}")


if __name__ == "__main__":
    main()
