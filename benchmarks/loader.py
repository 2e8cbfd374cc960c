"""Time from a zip of images to training data: with and without reading ahead, and on a second run.

Usage: python dev.py bench loader [--images N] [--encode-ms MS] [--rounds N]
Draws its own zip of noisy photographs into a temporary folder and prints one line of JSON. The first two are measured
with reading ahead and without, in turn; of several rounds the fastest counts, since other programs can only slow one
down. Files just written are read from the system's memory, not from a disk.

  device  images at 1024x1024 (from 1280x1280, PNG and JPEG in turn), where a sleep of `--encode-ms` stands in for the
          VAE on a GPU, and leaves the CPU free as a GPU does. How long a GPU takes is assumed and not measured here.
          `added_s` is what the loader, captions included, takes beyond the sleep.
  cpu     ComfyUI's own VAE, the encoder as large as the real one's, on the CPU, at 64x64 from the same files. It works
          on the cores that images are decoded on, so less can be won.
  second  zip and cache of the first again: opening the zip, identities of the weights, hashing all files, looking into
          the cache. Neither VAE nor text encoder takes part. The models are tiny, so their identities cost less than
          those of real ones; loading models is left out.

`sequential` reads and decodes each image when it is asked for, with the same code otherwise.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import platform
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from support import pack

SOURCE_SIDE, DEVICE_SIDE, CPU_SIDE = 1280, 1024, 64
KINDS = (("png", "PNG"), ("jpg", "JPEG"))


# ---- what is measured on -------------------------------------------------------------------------------------


def write_zip(path: Path, count: int) -> None:
    """`count` different images of smooth colours with noise, so that both formats are about as large as photographs."""
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(count):
            suffix, kind = KINDS[index % len(KINDS)]
            archive.writestr(f"{index:04}.{suffix}", picture(kind, index))
            archive.writestr(f"{index:04}.txt", f"photograph number {index}")


def picture(kind: str, seed: int) -> bytes:
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((SOURCE_SIDE, SOURCE_SIDE), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = smooth + draw.integers(-4, 5, smooth.shape)
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def load_models(folder: Path) -> dict[str, Any]:
    """The tiny models, by ComfyUI's own loaders, as `encode_dataset` takes them."""
    spec = importlib.util.spec_from_file_location("tiny_pack", pack.ROOT / "tests/tiny/tiny_pack/__init__.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["tiny_pack"] = tiny_pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny_pack)
    tiny_pack.register()
    import comfy.sd
    import comfy.utils

    text_encoder = str(folder / "text_encoders" / "qwen3vl_tiny.safetensors")
    weights, metadata = comfy.utils.load_torch_file(
        str(folder / "vae" / "flux2_tiny_vae.safetensors"), return_metadata=True
    )
    return {
        "vae": comfy.sd.VAE(sd=weights, metadata=metadata),
        "clip": comfy.sd.load_clip(ckpt_paths=[text_encoder], clip_type=comfy.sd.CLIPType.IDEOGRAM4),
        "patcher": comfy.sd.load_diffusion_model(str(folder / "diffusion_models" / "ideogram4_tiny_bf16.safetensors")),
    }


class SleepingVae:
    """A VAE on a device that is busy for `seconds` an image while the CPU has nothing to do."""

    def __init__(self, vae: Any, seconds: float) -> None:
        self.first_stage_model, self.vae_dtype, self.patcher = vae.first_stage_model, vae.vae_dtype, vae.patcher
        self.seconds = seconds

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return pixels[:, ::16, ::16, :1].movedim(-1, 1).expand(-1, 128, -1, -1).contiguous()


# ---- measuring -----------------------------------------------------------------------------------------------


def sequential(dataset: Any, width: int, height: int, *, wanted: Callable[[str], bool]) -> Iterator[Any]:
    """`read_ahead` without reading ahead."""
    for item in dataset.items:
        yield pack.core("dataset.ahead").read_image(dataset, item, width, height, wanted)


def seconds_to_ready(archive: Path, cache: Path, side: int, models: dict[str, Any], *, reader: Any, new: bool) -> float:
    """Seconds from the zip to ready training data; `new` says whether anything must be encoded for it."""
    encode = pack.core("model.encode")
    original, encode.read_ahead = encode.read_ahead, reader
    try:
        started = time.perf_counter()
        dataset = pack.core("dataset").open_dataset(archive)
        data = encode.encode_dataset(dataset, width=side, height=side, cache_folder=cache, **models)
        seconds = time.perf_counter() - started
    finally:
        encode.read_ahead = original
    assert bool(data.newly_encoded) == new
    return seconds


def compare(archive: Path, caches: list[Path], side: int, models: dict[str, Any]) -> dict[str, float]:
    """The fastest of one round for each cache folder, with reading ahead and without, and their ratio."""
    readers = {"sequential": sequential, "ahead": pack.core("dataset.ahead").read_ahead}
    rounds = [
        {
            name: seconds_to_ready(archive, cache / name, side, models, reader=reader, new=True)
            for name, reader in readers.items()
        }
        for cache in caches
    ]
    seconds = {name: min(figures[name] for figures in rounds) for name in readers}
    return {
        "sequential_s": round(seconds["sequential"], 2),
        "ahead_s": round(seconds["ahead"], 2),
        "ratio": round(seconds["sequential"] / seconds["ahead"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=30)
    parser.add_argument("--encode-ms", type=float, default=60.0, help="how long the stand-in is busy with an image")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    pack.load_comfyui()
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        folder = Path(temporary)
        archive = folder / "photographs.zip"
        write_zip(archive, options.images)
        models = load_models(Path(os.environ["TINY_MODELS"]))
        sleeping = {**models, "vae": SleepingVae(models["vae"], options.encode_ms / 1000)}
        caches = [[folder / f"{what}_{turn}" for turn in range(options.rounds)] for what in ("device", "cpu")]
        device = compare(archive, caches[0], DEVICE_SIDE, sleeping)
        device["added_s"] = round(device["ahead_s"] - options.images * options.encode_ms / 1000, 2)
        ahead = pack.core("dataset.ahead").read_ahead
        second = min(
            seconds_to_ready(archive, cache / "ahead", DEVICE_SIDE, sleeping, reader=ahead, new=False)
            for cache in caches[0]
        )
        figures = {
            "images": options.images,
            "archive_mib": round(archive.stat().st_size / 2**20),
            "encode_ms": options.encode_ms,
            "device": device,
            "cpu": compare(archive, caches[1], CPU_SIDE, models),
            "second_s": round(second, 2),
            "machine": pack.machine(),
            "versions": f"Python {platform.python_version()}, Pillow {PIL.__version__}, torch {torch.__version__}",
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
