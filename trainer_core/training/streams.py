"""Randomness as a pure function of (seed, purpose, position).

Nothing is drawn from a generator that lives on, so there is no random state to save: step 700 of a resumed run draws
what step 700 of the uninterrupted run drew. Draws are made on the CPU and are the same on every device.
"""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, purpose: str, *position: int | str) -> torch.Generator:
    """A fresh CPU generator for one purpose at one position, independent of all others."""
    text = "/".join([str(seed), purpose, *map(str, position)])
    derived = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return torch.Generator(device="cpu").manual_seed(derived)
