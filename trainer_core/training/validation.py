"""How well the model does on images that it is not trained on, and on as many that it is.

The noise and the noise levels are the same each time, so two measurements differ by what was learnt alone. When the
loss of the images held out rises while that of the trained ones falls, the run has begun to learn its images by heart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..config import TrainSettings
from ..model import host
from ..model.encode import TrainingData
from ..model.latents import LatentStatistics
from ..model.network import Network
from ..model.objective import sigma_from_uniform, velocity_loss
from .batch import prepare_batch
from .plan import MicroBatch, held_out_items, trained_items

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of the noise levels that are trained."""


@dataclasses.dataclass(frozen=True)
class ValidationReport:
    """One measurement."""

    loss: float
    """Mean over the images held out and all noise levels."""
    train_loss: float
    """The same over as many images that are trained on, fewer where there are fewer."""
    sigmas: tuple[float, ...]
    losses: tuple[float, ...]
    """Of the images held out, by noise level."""
    images: int


class Validation:
    """Measures at fixed steps; never due where no images are held out."""

    def __init__(
        self,
        data: TrainingData,
        settings: TrainSettings,
        statistics: LatentStatistics,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._own = slice(rank, None, world)
        """The share of this process, of several that train together."""
        self._data, self._settings, self._statistics = data, settings, statistics
        self._held_out = held_out_items(settings, len(data.items))
        self._trained = trained_items(settings, len(data.items))[: len(self._held_out)]
        quantiles = torch.tensor(QUANTILES, dtype=torch.float64)
        law: dict[str, Any] = {"mu": settings.sigma_mu, "std": settings.sigma_std}
        self._sigmas = sigma_from_uniform(quantiles, **law, width=data.width, height=data.height).tolist()

    def due(self, step: int, *, last: bool = False) -> bool:
        """Whether to measure after `step` steps: at the beginning, at the end and every so many between."""
        if not self._held_out:
            return False
        return last or step % self._settings.validation_every == 0

    def measure(self, network: Network, add_up: Callable[[Tensor], None] = lambda sums: None) -> ValidationReport:
        """`add_up` replaces sums by those over all processes. Raises ComfyUI's interrupt."""
        sums = torch.stack([self._sums(network, items[self._own]) for items in (self._held_out, self._trained)])
        add_up(sums)
        counts = torch.tensor([len(self._held_out), len(self._trained)], dtype=sums.dtype)
        held_out, trained = (sums.cpu() / counts[:, None]).tolist()
        return ValidationReport(
            loss=sum(held_out) / len(held_out),
            train_loss=sum(trained) / len(trained),
            sigmas=tuple(self._sigmas),
            losses=tuple(held_out),
            images=len(self._held_out),
        )

    @torch.no_grad()
    def _sums(self, network: Network, items: Sequence[int]) -> Tensor:
        """Sums of the loss over `items`, by noise level: float64 on the device."""
        sums = torch.zeros(len(self._sigmas), dtype=torch.float64, device=network.device)
        for item in items:
            for level, sigma in enumerate(self._sigmas):
                host.raise_if_interrupted()
                # The noise belongs to an image and a noise level, whatever else is held out.
                micro = MicroBatch((item,), (sigma,), item * len(self._sigmas) + level)
                batch = prepare_batch(self._data, micro, self._statistics, self._settings.seed, noise="validation")
                batch = batch.to(network.device)
                velocity = network.velocity(batch.noised, batch.sigma, batch.text, batch.text_mask)
                sums[level] += velocity_loss(velocity, batch.target)[0]
        return sums
