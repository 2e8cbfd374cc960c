"""The training objective: noise levels, noising and the loss. Pure functions, no state.

Conventions are ComfyUI's: sigma is 1 at noise and 0 at data, and the network predicts `noise - data`.
Shapes: B batch, C latent channels, H W latent size, N items of one optimiser step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The published schedule clamps 2 ln(sigma / (1 - sigma)) to -15..18: 5.5e-4 <= sigma <= 1 - 1.2e-4. It calls this a
# log-SNR, but it is the logarithm of noise over data.
SIGMA_MIN = 1.0 / (1.0 + math.exp(15 / 2))
SIGMA_MAX = 1.0 / (1.0 + math.exp(-18 / 2))


def log_sigma_mean(mu: float, width: int, height: int) -> float:
    """Centre of the logit-normal law at an image size in pixels; larger images are noised more.

    Source: Ideogram's published sampling schedule.
    """
    return mu + 0.5 * math.log(width * height / 512**2)


def stratified_uniform(count: int, generator: torch.Generator) -> Tensor:
    """`count` draws from (0, 1), one in each of `count` equal strata, in random order. (N,) float64.

    Within an optimiser step this removes most of the variance that the noise level adds to the loss.
    """
    strata = torch.randperm(count, generator=generator, dtype=torch.float64)
    return (strata + torch.rand(count, generator=generator, dtype=torch.float64)) / count


def sigma_from_uniform(u: Tensor, *, mu: float, std: float, width: int, height: int) -> Tensor:
    """Quantile function of the noise level law: logit-normal, clamped at both ends. Returns float32.

    Source: Ideogram's published sampling schedule, used as the training law (mu 0, std 1.5).
    """
    normal = torch.special.ndtri(u.double())
    sigma = torch.sigmoid(log_sigma_mean(mu, width, height) + std * normal)
    return sigma.clamp(SIGMA_MIN, SIGMA_MAX).float()


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """`sigma * noise + (1 - sigma) * clean`; (B, C, H, W) with sigma (B,)."""
    sigma = sigma.view(-1, 1, 1, 1)
    return sigma * noise + (1.0 - sigma) * clean


def velocity_target(clean: Tensor, noise: Tensor) -> Tensor:
    """What the network should predict: the derivative of `add_noise` by sigma."""
    return noise - clean


def predicted_clean(noised: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """The clean latent that a velocity implies: `x - sigma * v`."""
    return noised - sigma.view(-1, 1, 1, 1) * velocity


def velocity_loss(velocity: Tensor, target: Tensor) -> Tensor:
    """Mean squared error in fp32, per item: (B,)."""
    return (velocity.float() - target.float()).square().mean(dim=(1, 2, 3))
