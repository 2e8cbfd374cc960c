"""Images read, hashed and decoded on a thread of their own, a little ahead of whoever uses them.

While a device encodes one image, the next ones are made ready. One thread, so that the archive is read by one at a
time and a slow disk is not made to seek; a bounded look-ahead, so that memory does not depend on the number of images.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from .dataset import Dataset, Item, fit_pixels

LOOK_AHEAD = 2
"""Images that are ready, or being made ready, beside the one that is in use."""


@dataclasses.dataclass(frozen=True, eq=False)
class ReadImage:
    """What was read of an image."""

    content_hash: str
    """SHA-256 of the file's bytes, in hexadecimal."""
    pixels: np.ndarray | None
    """uint8 (height, width, 3), sRGB, of the very bytes that were hashed; None where they were not wanted."""


def read_ahead(
    dataset: Dataset, width: int, height: int, *, wanted: Callable[[str], bool]
) -> Generator[ReadImage, None, None]:
    """Yield every image of the dataset in order, each file read once.

    `wanted` is asked, on the reading thread and in order, whether the image of a content hash has to be decoded. What
    goes wrong with an image is raised where that image would be yielded, after all before it: as `Dataset.read` and
    `fit_pixels`. Close the generator to stop early: it waits for the image in work, and no thread is left.
    """
    # Nothing of torch happens on the thread, which has neither the inference mode nor the device of the caller.
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ideogram4-images")
    waiting: deque[Future[ReadImage]] = deque()
    try:
        for item in dataset.items:
            waiting.append(pool.submit(read_image, dataset, item, width, height, wanted))
            if len(waiting) > LOOK_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def read_image(dataset: Dataset, item: Item, width: int, height: int, wanted: Callable[[str], bool]) -> ReadImage:
    """Read one image, and decode and fit it where it is wanted. Raises as `Dataset.read` and `fit_pixels`."""
    data = dataset.read(item)
    content_hash = hashlib.sha256(data).hexdigest()
    return ReadImage(content_hash, fit_pixels(data, item, width, height) if wanted(content_hash) else None)
