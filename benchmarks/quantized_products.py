"""Errors of products in the weights' own format against exact ones, and on a GPU their times.

Usage: python dev.py bench quantized_products [--device cuda] [--seeds N] [--steps N]
Prints three tables:

  errors    1 - cosine between both kinds of products, on a picture at ten noise levels: of the predicted velocity, of
            the gradient of the noised latent, and of the gradients of all adapter matrices (their mean and the worst).
            34 blocks of random weights are there for how errors add up with depth.
  training  loss on fixed pictures, noise and noise levels after runs with either kind of products, as a sampler with
            exact products sees it and as one with quantised products does. How far the seeds are apart is the noise.
  times     with --device cuda: each product at the sizes of the released model, 4400 tokens.

On a CPU this stands in for a card: ComfyUI is told that there is one. fp8 and int8 are then multiplied by torch's own
kernels for them, with the very numbers that a card would multiply; only sums are rounded differently. There is none for
nvfp4, so its quantised operands are dequantised and multiplied. On a GPU nothing is pretended, and formats that it has
no products for are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from support import pack, quantized

FORMATS = ("fp8_scaled", "int8_convrot", "nvfp4")
RELEASED = {"qkv": (13824, 4608), "o": (4608, 4608), "w1, w3": (12288, 4608), "w2": (4608, 12288)}
RELEASED_BLOCKS, RELEASED_TOKENS = 34, 4400


def deep_models(folder: Path) -> Callable[[str], Path]:
    """Networks of random weights with as many blocks as the released one, in every format: their files by format."""
    models = quantized.from_tests("tiny/models.py")
    models.LAYERS = RELEASED_BLOCKS
    with torch.no_grad():
        models.save_transformers(folder, "deep", models.make_transformer(seed=0))
    return lambda fmt: folder / f"deep_{fmt}.safetensors"


# ---- times ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def times(fmt: str, device: torch.device) -> Iterator[tuple[str, str, float, float]]:
    """(layer, direction, exact ms, quantised ms) of every product at the released sizes that the device has."""
    dtype = torch.bfloat16
    for name, (out, width) in RELEASED.items():
        layer = quantized.frozen_linear(fmt, out, width, device, dtype)
        x, grad = (torch.randn(RELEASED_TOKENS, columns, device=device, dtype=dtype) for columns in (width, out))
        both = {
            "forward": functools.partial(layer.product, x),
            "backward": functools.partial(layer.input_gradient, grad),
        }
        exact = {direction: milliseconds(product, device) for direction, product in both.items()}
        used = pack.core("model.quantized").use_quantized_products(layer, device, dtype)
        for direction, product in both.items():
            if getattr(used, direction):
                yield name, direction, exact[direction], milliseconds(product, device)


def milliseconds(function: Callable[[], Any], device: torch.device, *, rounds: int = 20) -> float:
    """Time of one call on a GPU, after three that do not count."""
    for _ in range(3):
        function()
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(rounds):
        function()
    torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - started) / rounds


# ---- tables --------------------------------------------------------------------------------------------------


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def losses(patcher: Any, data: Any, folder: Path, *, seed: int, steps: int) -> tuple[list[str], Any]:
    """A row of the table of losses, and the LoRA trained with quantised products."""
    exact, found = (
        quantized.trained(patcher, data, folder, seed=seed, steps=steps, quantized=kind) for kind in (False, True)
    )
    row = [str(seed)]
    for sampling in (False, True):
        before, after = (quantized.validation_loss(patcher, data, lora, quantized=sampling) for lora in (exact, found))
        row += [f"{before:.4f}", f"{after:.4f}", f"{after / before - 1:+.2%}"]
    return row, found


def measure(device: torch.device, models: Path, folder: Path, *, seeds: int, steps: int) -> None:
    deep = deep_models(folder / "deep")
    error_rows, loss_rows = [], []
    for fmt in FORMATS:
        patcher = quantized.load(models / "diffusion_models" / f"ideogram4_tiny_{fmt}.safetensors")
        data = quantized.encoded(models, folder, patcher)
        with quantized.opened(patcher, {}, quantized=True) as (_, _, used):
            print(f"{fmt}: {used}")
        if not used.forward:
            continue
        rows = [losses(patcher, data, folder, seed=seed, steps=steps) for seed in range(seeds)]
        loss_rows += [(fmt, *row) for row, _ in rows]
        for what, network, lora in (
            ("2 blocks, random LoRA", patcher, {}),
            ("2 blocks, trained LoRA", patcher, rows[-1][1]),
            (f"{RELEASED_BLOCKS} random blocks, random LoRA", quantized.load(deep(fmt)), {}),
        ):
            found = quantized.errors(network, data, lora).values()
            error_rows.append((fmt, what, *(f"{error:.1e}" for error in found)))
    columns = ("output", "input gradient", "adapter gradients, mean", "adapter gradients, worst")
    table("Errors, 1 - cosine", ("format", "network", *columns), error_rows)
    sampled = [f"{name}, {how} sampling" for how in ("exact", "quantised") for name in ("exact", "quantised", "change")]
    table(f"Loss after {steps} steps with exact and with quantised products", ("format", "seed", *sampled), loss_rows)
    if device.type == "cuda":
        time_rows = [
            (fmt, name, direction, f"{before:.3f}", f"{after:.3f}", f"{before / after:.2f}")
            for fmt in FORMATS
            for name, direction, before, after in times(fmt, device)
        ]
        head = ("format", "layer", "direction", "exact ms", "quantised ms", "times as fast")
        table(f"Times, {RELEASED_TOKENS} tokens, {torch.cuda.get_device_name(device)}", head, time_rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    pack.load_comfyui(options.device)
    pack.load_tiny_sizes()
    on_cpu = options.device == "cpu"
    if on_cpu:
        torch.set_num_threads(1)  # the tiny models' matrices are too small to share
    models = Path(os.environ["TINY_MODELS"])
    with tempfile.TemporaryDirectory() as folder, quantized.pretended_card() if on_cpu else contextlib.nullcontext():
        measure(torch.device(options.device), models, Path(folder), seeds=options.seeds, steps=options.steps)
    print(f"\n{pack.machine()}; {pack.versions()}")


if __name__ == "__main__":
    main()
