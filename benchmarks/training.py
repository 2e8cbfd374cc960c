"""Seconds per step and peak memory of one training step, ours beside others, on the same random weights.

Usage: python dev.py bench training [--blocks N] [--format F] [--dtype D] [--size P] [--device cpu|cuda] ...

Blocks have the released width (4608); one block is what a CPU can do, 34 are the released model. Contenders:
  floor      forward, backward and AdamW of the same adapters on one batch, nothing else
  ours       the trainer's loop: batches, checks, journal, checkpoints, reports
  native     ComfyUI's TrainLoraNode through its own code, each block checkpointed
  diffusers  diffusers' transformer with PEFT adapters and gradient checkpointing, as a training script steps it
Each runs in a process of its own, one after the other, `--rounds` times; the fastest round counts, since other
programs can only slow one down. Prints a table, and ratios to ours.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from support import models, pack

CONTENDERS = ("floor", "ours", "native", "diffusers")
TEXT_TOKENS, TEXT_WIDTH = 128, 53248
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


# ---- what all train on ---------------------------------------------------------------------------------------


def load_patcher(options: argparse.Namespace) -> Any:
    import comfy.sd

    model_options = {"dtype": DTYPES[options.dtype]} if options.format == "bf16" else {}
    with torch.inference_mode():
        return comfy.sd.load_diffusion_model(options.model, model_options=model_options)


def training_data(patcher: Any, options: argparse.Namespace, folder: Path) -> Any:
    """Two images of noise with captions of noise, as the encode step leaves them."""
    encode, cache_module = pack.core("model.encode"), pack.core("model.cache")
    statistics_of = pack.core("model.latents").ideogram_statistics()
    cache, items, side = cache_module.EncodingCache(folder), [], options.size // 16
    for index in range(2):
        item = encode.EncodedItem(f"{index}.png", f"caption {index}", f"{index:02}aa", f"{index:02}bb")
        cache.store(item.latent_key, torch.randn(128, side, side))
        cache.store(item.text_key, torch.randn(TEXT_TOKENS, 4608, dtype=DTYPES[options.dtype]))
        items.append(item)
    return encode.TrainingData(
        items=tuple(items),
        width=options.size,
        height=options.size,
        cache=cache,
        projection=encode.projection_identity(patcher),
        vae_statistics=statistics_of,
        default_caption="",
        newly_encoded=0,
    )


def settings_of(options: argparse.Namespace) -> Any:
    return pack.core("config").TrainSettings(
        steps=options.steps, rank=options.rank, gradient_checkpointing=not options.keep_activations
    )


# ---- contenders: each returns the times at which steps ended ---------------------------------------------------


def run_floor(options: argparse.Namespace, folder: Path) -> list[float]:
    patcher = load_patcher(options)
    data, settings = training_data(patcher, options, folder), settings_of(options)
    adapters_module, network_module = pack.core("model.adapters"), pack.core("model.network")
    batch_module, plan = pack.core("training.batch"), pack.core("training.plan")
    loss_of, generator = pack.core("model.objective").velocity_loss, pack.core("training.streams").generator
    ends = []
    with torch.inference_mode(), network_module.open_network(patcher, activation_bytes=2**30) as network:
        adapters = adapters_module.inject_adapters(
            network.module,
            rank=settings.rank,
            rank_stabilized=False,
            train_modulation=False,
            generator_for=lambda path: generator(0, "adapter", path),
            device=network.device,
        )
        if settings.gradient_checkpointing:
            network.checkpoint_blocks()
        parameters = list(adapters.parameters().values())
        optimizer = torch.optim.AdamW(parameters, lr=1e-4)
        micro = plan.plan_step(settings, 0, 2, options.size, options.size)[0]
        batch = batch_module.make_batch(data, micro, data.statistics("ideogram"), 0, network.device)
        for _ in range(options.steps):
            velocity = network.velocity(batch.noised, batch.sigma, batch.text, batch.text_mask)
            loss_of(velocity, batch.target).mean().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            ends.append(now())
    return ends


def run_ours(options: argparse.Namespace, folder: Path) -> list[float]:
    patcher = load_patcher(options)
    data = training_data(patcher, options, folder)
    place = pack.core("training.runs").RunPlace(runs_folder=folder / "runs", loras_folder=folder / "loras")
    ends: list[float] = []
    with torch.inference_mode():
        pack.core("training.loop").train(
            patcher, data, settings_of(options), place, on_step=lambda _report: ends.append(now())
        )
    return ends


def run_native(options: argparse.Namespace, folder: Path) -> list[float]:
    import comfy_extras.nodes_train as native

    patcher, side = load_patcher(options), options.size // 16
    ends: list[float] = []
    original = native.TrainSampler.fwd_bwd

    def timed(*args: Any, **keywords: Any) -> Any:
        ends.append(now())  # a step begins where the one before has ended
        return original(*args, **keywords)

    native.TrainSampler.fwd_bwd = timed
    inputs = {
        "model": patcher,
        "batch_size": 1,
        "steps": options.steps + 1,
        "grad_accumulation_steps": 1,
        "learning_rate": 1e-4,
        "rank": options.rank,
        "optimizer": "AdamW",
        "loss_function": "MSE",
        "seed": 0,
        "training_dtype": options.dtype,
        "lora_dtype": "fp32",
        "quantized_backward": False,
        "algorithm": "LoRA",
        "gradient_checkpointing": not options.keep_activations,
        "checkpoint_depth": 2,
        "offloading": False,
        "existing_lora": "[None]",
        "bucket_mode": False,
        "bypass_mode": False,
    }
    from comfy.weight_adapter import adapter_maps

    inputs["algorithm"] = next(name for name in adapter_maps if name.lower() == "lora")
    text = torch.randn(1, TEXT_TOKENS, TEXT_WIDTH)
    with torch.inference_mode():
        native.TrainLoraNode.execute(
            latents=[{"samples": torch.randn(1, 128, side, side)} for _ in range(2)],
            positive=[[[text, {}]], [[text.clone(), {}]]],
            **{name: [value] for name, value in inputs.items()},
        )
    return ends


def run_diffusers(options: argparse.Namespace, folder: Path) -> list[float]:
    sys.path.insert(0, str(pack.ROOT / "tests" / "oracles"))
    import diffusers_ideogram4 as oracle
    from diffusers import Ideogram4Transformer2DModel
    from peft import LoraConfig

    dtype = DTYPES[options.dtype]
    with torch.device(options.device):
        transformer = Ideogram4Transformer2DModel(num_layers=options.blocks).to(dtype).requires_grad_(False)
    targets = ["to_q", "to_k", "to_v", "to_out.0", "w1", "w2", "w3"]
    transformer.add_adapter(LoraConfig(r=options.rank, lora_alpha=options.rank, target_modules=targets))
    if not options.keep_activations:
        transformer.enable_gradient_checkpointing()
    transformer.train()
    parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    side, ends = options.size // 16, []
    text = torch.randn(1, TEXT_TOKENS, TEXT_WIDTH, dtype=dtype, device=options.device)
    for _ in range(options.steps):
        clean, noise = torch.randn(2, 1, 128, side, side, device=options.device)
        sigma = torch.rand(1, device=options.device)
        noised = (sigma * noise + (1 - sigma) * clean).to(dtype)
        with torch.autocast(options.device, dtype=dtype, enabled=dtype != torch.float32):
            predicted = oracle.velocity(transformer, noised, text, sigma)
        torch.nn.functional.mse_loss(predicted.float(), noise - clean).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ends.append(now())
    return ends


# ---- measuring -----------------------------------------------------------------------------------------------


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run one contender in this process."""
    pack.load_comfyui(options.device)
    contenders: dict[str, Callable[[argparse.Namespace, Path], list[float]]] = {
        "floor": run_floor,
        "ours": run_ours,
        "native": run_native,
        "diffusers": run_diffusers,
    }
    with tempfile.TemporaryDirectory() as folder:
        ends = contenders[options.contender](options, Path(folder))
    steps = [after - before for before, after in itertools.pairwise(ends)]
    on_gpu = options.device == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": statistics.median(steps), "peak_gib": peak / 2**30}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--format", default="bf16", choices=["bf16", *models.FORMATS])
    parser.add_argument("--dtype", default="fp32", choices=DTYPES)
    parser.add_argument("--size", type=int, default=256, help="pixels of each side")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--keep-activations", action="store_true", help="no checkpointing")
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "ideogram4_random.safetensors"
        command = [sys.executable, __file__, *sys.argv[1:], "--model", str(model)]
        write_model_in_a_process(options, model)
        best: dict[str, dict[str, Any]] = {}
        for _ in range(options.rounds):
            for contender in options.only:
                done = subprocess.run([*command, "--contender", contender], check=False, capture_output=True, text=True)
                if done.returncode:
                    best[contender] = {"error": done.stderr.strip().splitlines()[-1]}
                    continue
                figures = json.loads(done.stdout.splitlines()[-1])
                if contender not in best or figures["seconds"] < best[contender].get("seconds", float("inf")):
                    best[contender] = figures
    print_table(best, options)


def write_model_in_a_process(options: argparse.Namespace, path: Path) -> None:
    """So that its memory does not count."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); from support import models, pack;"
        "pack.load_comfyui(sys.argv[5]); models.write_random_model(Path(sys.argv[2]), blocks=int(sys.argv[3]),"
        "fmt=sys.argv[4], device=sys.argv[5])"
    )
    here = str(Path(__file__).parent)
    arguments = [here, str(path), str(options.blocks), options.format, options.device]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)


def print_table(best: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    what = f"{options.blocks} block(s), {options.format} base, {options.dtype} compute, {options.size}x{options.size}"
    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    print(f"{what}, rank {options.rank}, batch 1; {device}; {pack.machine()}; torch {torch.__version__}; {threads=}")
    print("| | s/step | peak GiB | time against ours | memory against ours |")
    print("|---|---|---|---|---|")
    ours = best.get("ours", {})
    for contender, figures in best.items():
        if "error" in figures:
            print(f"| {contender} | {figures['error']} | | | |")
            continue
        row = f"| {contender} | {figures['seconds']:.3f} | {figures['peak_gib']:.2f} |"
        if "seconds" in ours:
            row += f" {figures['seconds'] / ours['seconds']:.2f} | {figures['peak_gib'] / ours['peak_gib']:.2f} |"
        print(row)


if __name__ == "__main__":
    main()
