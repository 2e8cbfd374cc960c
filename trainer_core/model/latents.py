"""Latent normalisation: which mean and scale the network expects per channel.

The network was trained on `(raw VAE mean - shift) / scale` with constants that Ideogram publishes. ComfyUI normalises
with the batch-norm statistics stored in the VAE file, which may differ. Both are offered; how far they are apart is
measured on the VAE that is connected. Channels are in ComfyUI's order, `c * 4 + row * 2 + column` of a 2x2 patch.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from torch import Tensor

CHANNELS = 128
_CONSTANTS = Path(__file__).with_name("ideogram4_latent_norm.json")


@dataclasses.dataclass(frozen=True)
class LatentStatistics:
    """Per-channel shift and scale, each (128,) float32."""

    shift: Tensor
    scale: Tensor

    def normalize(self, raw: Tensor) -> Tensor:
        """Raw VAE means (..., 128, H, W) to what the network sees."""
        return (raw - self._spread(self.shift, raw)) / self._spread(self.scale, raw)

    def denormalize(self, latent: Tensor) -> Tensor:
        return latent * self._spread(self.scale, latent) + self._spread(self.shift, latent)

    def difference_from(self, other: LatentStatistics) -> str:
        """One sentence on how far these statistics are from `other`, in units of the other's scale."""
        offset = (self.shift - other.shift) / other.scale
        ratio = self.scale / other.scale
        return (
            f"mean offset rms {offset.square().mean().sqrt().item():.3f} sigma "
            f"(largest {offset.abs().max().item():.3f}), "
            f"scale ratio {ratio.min().item():.3f} to {ratio.max().item():.3f}"
        )

    @staticmethod
    def _spread(values: Tensor, like: Tensor) -> Tensor:
        return values.to(device=like.device, dtype=like.dtype).view(-1, 1, 1)


def ideogram_statistics() -> LatentStatistics:
    """Ideogram's published constants, reordered from (row, column, channel) to ComfyUI's channel order."""
    constants = json.loads(_CONSTANTS.read_text(encoding="utf-8"))

    def reorder(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32).view(2, 2, CHANNELS // 4).permute(2, 0, 1).reshape(-1)

    return LatentStatistics(reorder(constants["shift"]), reorder(constants["scale"]))
