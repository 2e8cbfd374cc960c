"""The batches of a run, each prepared by a thread while the one before is trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from ..config import TrainSettings
from ..model.encode import TrainingData
from ..model.latents import LatentStatistics
from .batch import Batch, prepare_batch
from .plan import MicroBatch, plan_step, share_of_step


class BatchFeed:
    """Hands out the micro-batches of every step, in order; those of process `rank` of `world`. Close it at the end."""

    def __init__(
        self,
        data: TrainingData,
        settings: TrainSettings,
        statistics: LatentStatistics,
        device: torch.device,
        *,
        first_step: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._data, self._settings, self._statistics, self._device = data, settings, statistics, device
        self._rank, self._world = rank, world
        self._per_step = math.ceil(len(share_of_step(settings, rank, world)) / settings.batch_size)
        self._micros = self._all_micros(first_step)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ideogram4-batches")
        self._next: Future[Batch] | None = None
        self._prepare_next()

    def next_step(self) -> Iterator[Batch]:
        """The batches of the next step, on the device."""
        for _ in range(self._per_step):
            if self._next is None:
                raise ValueError("all steps of this run were handed out")
            batch = self._next.result()
            self._prepare_next()
            yield batch.to(self._device)

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _all_micros(self, first_step: int) -> Iterator[MicroBatch]:
        data, own = self._data, {"rank": self._rank, "world": self._world}
        for step in range(first_step, self._settings.steps):
            yield from plan_step(self._settings, step, len(data.items), data.width, data.height, **own)

    def _prepare_next(self) -> None:
        micro = next(self._micros, None)
        self._next = None if micro is None else self._thread.submit(self._prepare, micro)

    def _prepare(self, micro: MicroBatch) -> Any:
        return prepare_batch(self._data, micro, self._statistics, self._settings.seed, pin=self._device.type == "cuda")
