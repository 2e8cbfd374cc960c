"""Time to open a zip of many images: listing, captions, and the first bytes of every image.

Usage: python benchmarks/dataset_listing.py [--images N]
Draws its own zip into a temporary folder and prints one line of JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import tempfile
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import PIL
from PIL import Image
from support import pack

FORMATS = (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"))


def write_zip(path: Path, count: int) -> None:
    """`count` noisy 512x512 images, of the three formats in turn, each with a caption."""
    pictures = [encode(kind, seed) for seed in range(4) for _, kind in FORMATS]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for index in range(count):
            suffix = FORMATS[index % len(FORMATS)][0]
            archive.writestr(f"set/{index:06}.{suffix}", pictures[index % len(pictures)])
            archive.writestr(f"set/{index:06}.txt", f"picture number {index} of a large set")


def encode(kind: str, seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((512, 512)).save(buffer, kind)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    count = parser.parse_args().images
    dataset_room = pack.core("dataset")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "many.zip"
        write_zip(path, count)
        started = time.perf_counter()
        dataset = dataset_room.open_dataset(path)
        seconds = time.perf_counter() - started
        tracemalloc.start()
        dataset = dataset_room.open_dataset(path)
        kept_bytes, peak_bytes = tracemalloc.get_traced_memory()
        archive_bytes = path.stat().st_size
    figures = {
        "images": len(dataset.items),
        "archive_mib": round(archive_bytes / 2**20),
        "seconds": round(seconds, 2),
        "kept_mib": round(kept_bytes / 2**20, 1),
        "peak_mib": round(peak_bytes / 2**20, 1),
        "machine": pack.machine(),
        "versions": f"Python {platform.python_version()}, Pillow {PIL.__version__}, zlib {zlib.ZLIB_RUNTIME_VERSION}",
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
