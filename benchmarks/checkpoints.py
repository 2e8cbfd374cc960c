"""Time and size of a checkpoint with the adapters of the released model: 34 blocks of width 4608.

Usage: python dev.py bench checkpoints [--rank R] [--folder DISK]
Writes and reads random values in a temporary folder, as a run does, and prints one line of JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from support import pack

BLOCKS, WIDTH, FFN = 34, 4608, 12288
LAYERS = {
    "attention.qkv": (3 * WIDTH, WIDTH),
    "attention.o": (WIDTH, WIDTH),
    "feed_forward.w1": (FFN, WIDTH),
    "feed_forward.w2": (WIDTH, FFN),
    "feed_forward.w3": (FFN, WIDTH),
}


def random_state(checkpoints: Any, rank: int) -> Any:
    """A run after 1000 steps."""
    weights_of = pack.core("lora_files").LoraWeights
    adapter, optimizer = {}, {}
    for block in range(BLOCKS):
        for layer, (out, width) in LAYERS.items():
            path = f"layers.{block}.{layer}"
            adapter[path] = weights_of(torch.rand(rank, width), torch.rand(out, rank), float(rank))
            for name, matrix in (("down", adapter[path].down), ("up", adapter[path].up)):
                optimizer[f"{path}.{name}.step"] = torch.tensor(1000.0)
                optimizer[f"{path}.{name}.exp_avg"] = torch.rand_like(matrix)
                optimizer[f"{path}.{name}.exp_avg_sq"] = torch.rand_like(matrix)
    return checkpoints.RunState(tuple(float(n) for n in range(1000)), 1.0, 0, adapter, optimizer)


def facts() -> Any:
    texts = dict.fromkeys(
        ("dataset", "images", "captions", "texts", "model", "model_weights", "compute", "latents", "start_lora"), ""
    )
    settings = pack.core("config").TrainSettings()
    facts_of = pack.core("training.facts").RunFacts
    return facts_of(settings=settings, image_count=1, width=1024, height=1024, versions={}, **texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--folder", help="where to write; default: the system's temporary folder")
    options = parser.parse_args()
    pack.load_comfyui()
    checkpoints = pack.core("training.checkpoints")
    state = random_state(checkpoints, options.rank)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        seconds = {}
        started = time.perf_counter()
        path = checkpoints.write_checkpoint(Path(folder), state, facts())
        seconds["write"] = time.perf_counter() - started
        started = time.perf_counter()
        checkpoints.read_checkpoint(path)
        seconds["read_and_check"] = time.perf_counter() - started
        size_bytes = sum(file.stat().st_size for file in path.iterdir())
    started = time.perf_counter()
    hashlib.sha256(bytes(2**28)).digest()
    seconds["sha256_of_256_mib"] = time.perf_counter() - started
    figures = {
        "rank": options.rank,
        "megabytes": round(size_bytes / 1e6),
        **{name: round(value, 2) for name, value in seconds.items()},
        "machine": pack.machine(),
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
