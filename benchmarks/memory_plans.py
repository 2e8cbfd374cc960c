"""What a run needs on a card, without a card: predicted for the released sizes, and counted tensor by tensor.

Usage: python dev.py bench memory_plans [--rank R] [--text-tokens L]

The network is built on torch's `meta` device, whose tensors have sizes and no contents, and one training step is done
on it while every tensor that is alive is counted. Flash attention and a fused RMSNorm stand in as tensors of the sizes
that they keep. What cannot be counted so: gaps in torch's allocator, workspaces of libraries, and the driver's own.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys

from support import pack

SIZES = ((512, 512), (768, 768), (1024, 1024), (1536, 1024))
CARDS = (6, 8, 10, 12, 16, 24, 32, 48, 80)
BYTES_PER_WEIGHT = {"nvfp4": 0.5625, "fp8_scaled, int8": 1.0, "bf16": 2.0}
TAKEN = 0.9
"""GiB of a card that the driver, ComfyUI's reserve and the screen take."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--text-tokens", type=int, default=300)
    options = parser.parse_args()
    pack.load_comfyui()
    pack.core("model.memory")
    sys.path.insert(0, str(pack.ROOT / "tests" / "support"))
    from meta_model import measured_step, meta_patcher

    memory, settings = pack.core("model.memory"), pack.core("config").TrainSettings(rank=options.rank)
    patcher, gib, modes = meta_patcher(), memory.GIB, list(memory.MemoryMode)

    print(f"Rank {options.rank}, batch 1, captions of {options.text_tokens} tokens; {pack.versions()}\n")
    print("Beside the weights, in GiB: predicted (counted)\n")
    print(f"| size | {' | '.join(map(str, modes[:2]))} |\n|---|---|---|")
    for size in SIZES:
        sizes = dataclasses.replace(memory.measure_sizes(patcher, settings, size, options.text_tokens), cast_weight=0)
        row = []
        for mode in modes[:2]:
            plan = memory.make_plan(sizes, mode)
            counted = measured_step(patcher, settings, plan, size, options.text_tokens)
            row.append(f"{plan.training_bytes / gib:.2f} ({counted / gib:.2f})")
        print(f"| {size[0]}x{size[1]} | {' | '.join(row)} |")

    at_1024 = memory.measure_sizes(patcher, settings, (1024, 1024), options.text_tokens)
    formats = {
        name: dataclasses.replace(
            at_1024,
            block_weights=int(at_1024.block_weights * size / 2),
            cast_weight=0 if size == 2 else 2 * 4608 * 13824,
        )
        for name, size in BYTES_PER_WEIGHT.items()
    }
    print("\nPeak at 1024x1024 in each mode, in GiB, weights included\n")
    print(f"| base | {' | '.join(map(str, modes))} |\n|---|---|---|---|")
    for name, sizes in formats.items():
        peaks = (memory.make_plan(sizes, mode).predicted_bytes / gib for mode in modes)
        print(f"| {name} | {' | '.join(f'{peak:.1f}' for peak in peaks)} |")

    print("\nWhat `auto` takes at 1024x1024: mode, blocks recomputed, GiB predicted\n")
    print(f"| card | {' | '.join(formats)} |\n|---|---|---|---|")
    for card in CARDS:
        row = []
        for sizes in formats.values():
            plan = memory.choose_plan(sizes, settings, int((card - TAKEN) * gib))
            blocks = plan.sizes.blocks - plan.kept_blocks
            row.append(f"{plan.mode}, {blocks} of {plan.sizes.blocks}, {plan.predicted_bytes / gib:.1f}")
        print(f"| {card} GB | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
