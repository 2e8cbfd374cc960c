"""Which images of a dataset are nearly the same picture, told from small versions of them.

Two pictures are alike when their difference hashes (N. Krawetz, "Kind of Like That", 2013) nearly agree, and so do
their colours on a coarse grid: the hash alone takes two plain surfaces for one. Found: the same picture saved again,
scaled, compressed, slightly retouched. Not found: cuttings, mirrored or turned pictures.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

SIGNATURE_BYTES = 8 + 8 * 8 * 3
"""The hash, then the colours."""
MAX_HASH_DISTANCE = 6
"""Of 64 bits. Saving again changes up to 3, another picture about 32."""
MAX_COLOUR_DISTANCE = 10
"""Of 255, on average over the grid and its three channels."""
_STEP = 3
"""Grey levels between two neighbours that count as a difference: less is noise of the compression."""
_MAX_CANDIDATES = 64
_BITS = np.array([bin(value).count("1") for value in range(2**16)], dtype=np.uint8)


def signature(image: Image.Image) -> np.ndarray:
    """What is compared of an image: uint8 (SIGNATURE_BYTES,)."""
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = np.packbits(grey[:, 1:] > grey[:, :-1] + _STEP)
    colours = np.asarray(image.convert("RGB").resize((8, 8), Image.Resampling.BOX), dtype=np.uint8)
    return np.concatenate((bits, colours.reshape(-1)))


def twins(signatures: np.ndarray, known: np.ndarray) -> list[int | None]:
    """For every image the index of the one that it is most like, None where it is like no other.

    signatures: uint8 (N, SIGNATURE_BYTES); known: bool (N,), false where an image has no signature. Of several the
    first.
    """
    words = np.ascontiguousarray(signatures[:, :8]).view(np.uint16)  # (N, 4)
    colours = signatures[:, 8:].astype(np.int16)
    result: list[int | None] = []
    for index in range(len(signatures)):
        distances = _BITS[words ^ words[index]].sum(axis=1)
        distances[~known] = MAX_HASH_DISTANCE + 1
        distances[index] = MAX_HASH_DISTANCE + 1
        near = np.flatnonzero(distances <= MAX_HASH_DISTANCE)[:_MAX_CANDIDATES] if known[index] else np.empty(0, int)
        apart = np.abs(colours[near] - colours[index]).mean(axis=1)
        alike = apart <= MAX_COLOUR_DISTANCE
        result.append(int(near[alike][np.argmin(apart[alike])]) if alike.any() else None)
    return result
