"""Tensors of one forward pass.

Shapes: B batch, L tokens of the longest caption, D model width, C latent channels, H W latent size.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..model.encode import TrainingData
from ..model.latents import LatentStatistics
from ..model.objective import add_noise, velocity_target
from .plan import MicroBatch
from .streams import generator


@dataclasses.dataclass(frozen=True)
class Batch:
    """Everything that the network and the loss need."""

    noised: Tensor
    """(B, C, H, W) float32."""
    sigma: Tensor
    """(B,) float32."""
    target: Tensor
    """(B, C, H, W) float32, noise - data."""
    text: Tensor
    """(B, L, D)."""
    text_mask: Tensor | None
    """(B, L) on the CPU, 1 for a token and 0 for padding; None when nothing is padded."""

    def to(self, device: torch.device) -> Batch:
        """The batch on the training device. From pinned memory the copy does not wait for the device."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Batch(moved(self.noised), moved(self.sigma), moved(self.target), moved(self.text), self.text_mask)


def make_batch(
    data: TrainingData, micro: MicroBatch, statistics: LatentStatistics, seed: int, device: torch.device
) -> Batch:
    """`prepare_batch`, on the training device."""
    return prepare_batch(data, micro, statistics, seed).to(device)


def prepare_batch(
    data: TrainingData,
    micro: MicroBatch,
    statistics: LatentStatistics,
    seed: int,
    *,
    pin: bool = False,
    noise: str = "noise",
) -> Batch:
    """Load, normalise and noise the items of a micro-batch, on the CPU; in pinned memory if asked for.

    `noise` is the purpose for which noise is drawn.

    The noise belongs to an item's position in the run, not to the batch it happens to be in, so a step computes the
    same loss however it is split into micro-batches.
    """
    clean = torch.stack([statistics.normalize(data.raw_latent(index)) for index in micro.items])
    drawn = torch.stack(
        [
            torch.randn(clean.shape[1:], generator=generator(seed, noise, micro.first_position + offset))
            for offset in range(len(micro.items))
        ]
    )
    sigma = torch.tensor(micro.sigmas, dtype=torch.float32)
    text, mask = pad_text([data.text(index) for index in micro.items])
    noised, target = add_noise(clean, drawn, sigma), velocity_target(clean, drawn)
    noised, sigma, target, text = (x.pin_memory() if pin else x for x in (noised, sigma, target, text))
    return Batch(noised, sigma, target, text, mask)


def pad_text(features: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Stack (L_i, D) features into (B, L, D), padded on the right, with a (B, L) mask or None.

    On the right because ComfyUI counts text positions from the first slot, padding included.
    """
    lengths = [feature.shape[0] for feature in features]
    if len(set(lengths)) == 1:
        return torch.stack(features), None
    longest = max(lengths)
    text = features[0].new_zeros(len(features), longest, features[0].shape[1])
    mask = torch.zeros(len(features), longest)
    for row, (feature, length) in enumerate(zip(features, lengths, strict=True)):
        text[row, :length] = feature
        mask[row, :length] = 1
    return text, mask
