"""Near-duplicates of datasets that are being looked at, found on one thread while somebody asks for them."""

from __future__ import annotations

import dataclasses
import io
import threading
import time

import numpy as np
from PIL import Image

from ..trainer_core.dataset.similar import SIGNATURE_BYTES, signature, twins
from ..trainer_core.errors import UserError
from .shelf import Opened, Recent, Shelf

MAX_KNOWN = 8
"""Datasets; 2 MB each at 10,000 images."""
PATIENCE_S = 30.0
"""Without a question for so long, the work stops where it is."""


@dataclasses.dataclass(eq=False)
class _Comparison:
    opened: Opened | None
    """None when all is known."""
    signatures: np.ndarray
    """uint8 (N, SIGNATURE_BYTES)"""
    known: np.ndarray
    """bool (N,)"""
    done: int = 0
    asked_at_s: float = 0.0
    twins: list[int | None] | None = None


class Likeness:
    """Compares the images of the dataset that was asked about last; what was compared is kept."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._comparisons: Recent[_Comparison] = Recent(MAX_KNOWN)
        self._wanted: _Comparison | None = None
        self._lock = threading.Lock()
        self._working = False

    def twins(self, opened: Opened) -> list[int | None] | None:
        """As `similar.twins`, None while it is being found out: ask again after a while."""
        key = (opened.path, opened.data)
        with self._lock:
            comparison = self._comparisons.get(key)
            if comparison is None:
                count = len(opened.dataset.items)
                comparison = self._comparisons.put(
                    key, _Comparison(opened, np.zeros((count, SIGNATURE_BYTES), np.uint8), np.zeros(count, bool))
                )
            comparison.asked_at_s = time.monotonic()
            if comparison.twins is None:
                self._wanted = comparison
                if not self._working:
                    self._working = True
                    # A daemon: ComfyUI must not wait for it when it ends.
                    threading.Thread(target=self._work, name="ideogram4-likeness", daemon=True).start()
            return comparison.twins

    def _work(self) -> None:
        try:
            while (comparison := self._next()) is not None:
                if comparison.done < len(comparison.known):
                    comparison.done += 1  # first: an image that ends this thread is not looked at again
                    self._look(comparison, comparison.done - 1)
                else:
                    comparison.twins = twins(comparison.signatures, comparison.known)
                    comparison.opened = None  # it may hold megabytes of captions
        except BaseException:
            with self._lock:
                self._working = False
            raise

    def _next(self) -> _Comparison | None:
        with self._lock:
            wanted = self._wanted
            if wanted is None or wanted.twins is not None or time.monotonic() - wanted.asked_at_s > PATIENCE_S:
                self._wanted = None
                self._working = False  # under the lock, so that no question falls between
                return None
            return wanted

    def _look(self, comparison: _Comparison, index: int) -> None:
        if comparison.opened is None:
            return
        try:
            picture = self._shelf.picture(comparison.opened, index, "thumb")
        except UserError:
            return  # it is like no other, and the sheet cannot show it either
        with Image.open(io.BytesIO(picture)) as image:
            comparison.signatures[index] = signature(image)
        comparison.known[index] = True
