"""Checks before step 1. Each failure would otherwise end in a LoRA that has learnt nothing, without a word.

1. Positions: the rotary embedding that the first block really receives has one distinct row per image token.
2. Gradients: every adapter's two matrices receive a finite gradient that is not zero.
3. Quantised products, where they are used: the prediction is near to that of exact ones; else they are given up.
4. Direction: the prediction is nearer to `noise - data` than to `data - noise`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SelfCheckFailed
from ..model.adapters import Adapters
from ..model.encode import TrainingData
from ..model.frozen import FrozenLinear
from ..model.latents import LatentStatistics
from ..model.network import Network
from ..model.objective import velocity_loss
from ..model.quantized import MAX_VELOCITY_ERROR, use_exact_products, velocity_error
from .batch import Batch, make_batch
from .plan import MicroBatch
from .streams import generator

CHECK_SIGMAS = (0.3, 0.5, 0.7, 0.9)
CLEARLY = 0.9
"""One loss is clearly better than the other when it is below this part of it."""


def self_check(
    network: Network, adapters: Adapters, data: TrainingData, statistics: LatentStatistics, seed: int
) -> list[str]:
    """Run all checks on the first image and return notes for the user. Raises `SelfCheckFailed`.

    The adapters are left exactly as they were, without gradients.
    """
    batches = [
        make_batch(data, MicroBatch((0,), (sigma,), index), statistics, seed, network.device)
        for index, sigma in enumerate(CHECK_SIGMAS)
    ]
    _check_positions(network, batches[0])
    _check_gradients(network, adapters, batches[1], seed)
    return [*_check_products(network, batches[1]), *_check_direction(network, batches)]


def _velocity(network: Network, batch: Batch) -> Tensor:
    return network.velocity(batch.noised, batch.sigma, batch.text, batch.text_mask)


@torch.no_grad()
def _check_positions(network: Network, batch: Batch) -> None:
    tables: list[Tensor] = []
    # The table is taken where it is used, so whatever spoils it on this machine and with these settings is seen.
    hook = network.module.layers[0].register_forward_pre_hook(lambda _module, args: tables.append(args[2]))
    try:
        _velocity(network, batch)
    finally:
        hook.remove()
    image_tokens = batch.noised.shape[-1] * batch.noised.shape[-2]
    rows = tables[0].float().squeeze().flatten(1)[-image_tokens:]
    distinct = torch.unique(rows, dim=0).shape[0]
    if distinct != image_tokens:
        raise SelfCheckFailed(
            f"Only {distinct} of {image_tokens} image positions are distinct, so the model would train blind to "
            "position. Something in this ComfyUI lowers the precision of the rotary embedding (autocast or TF32); "
            "disable other custom nodes and command line options that change precision, and run again."
        )


def _check_gradients(network: Network, adapters: Adapters, batch: Batch, seed: int) -> None:
    parameters = adapters.parameters()
    kept = {name: p.detach().clone() for name, p in parameters.items() if name.endswith(".up")}
    try:
        # While `up` is zero no gradient reaches `down`: fill it for the length of this check.
        with torch.no_grad():
            for name in kept:
                parameters[name].copy_(_small_noise(parameters[name], seed, name))
        velocity_loss(_velocity(network, batch), batch.target).mean().backward()
        dead = [name for name, p in parameters.items() if p.grad is None or not _is_alive(p.grad)]
    finally:
        with torch.no_grad():
            for name, values in kept.items():
                parameters[name].copy_(values)
        for parameter in parameters.values():
            parameter.grad = None
    if dead:
        raise SelfCheckFailed(
            f"No usable gradient reaches {len(dead)} of {len(parameters)} adapter matrices ({', '.join(dead[:4])}). "
            "The model file may be damaged or produce NaN; check that it makes images, then run again."
        )


def _small_noise(like: Tensor, seed: int, name: str) -> Tensor:
    return torch.randn(like.shape, generator=generator(seed, "self_check", name)).mul_(1e-3).to(like.device)


def _is_alive(grad: Tensor) -> bool:
    return bool(grad.isfinite().all()) and bool(grad.any())


def _check_products(network: Network, batch: Batch) -> list[str]:
    if not any(isinstance(m, FrozenLinear) and m.quantized_product for m in network.module.modules()):
        return []
    error = velocity_error(network, batch.noised, batch.sigma, batch.text, batch.text_mask)
    if error <= MAX_VELOCITY_ERROR:
        return []
    use_exact_products(network.module)
    return [
        f"With quantised products the prediction is {error:.0%} away from the exact one, which is too far for "
        "training, so products are exact."
    ]


@torch.no_grad()
def _check_direction(network: Network, batches: list[Batch]) -> list[str]:
    straight = flipped = 0.0
    for batch in batches:
        velocity = _velocity(network, batch)
        straight += velocity_loss(velocity, batch.target).mean().item() / len(batches)
        flipped += velocity_loss(-velocity, batch.target).mean().item() / len(batches)
    if not straight < float("inf"):
        raise SelfCheckFailed(
            "The model predicts NaN or infinite values on the first image. Check that it makes images with these "
            "files; fp16 is known to overflow, bf16 works."
        )
    if flipped < CLEARLY * straight:
        raise SelfCheckFailed(
            f"The model fits the opposite direction better (loss {flipped:.3f} against {straight:.3f}). "
            "The VAE or the text encoder does not belong to this model; connect flux2-vae and qwen3vl_8b (ideogram4)."
        )
    if straight < CLEARLY * flipped:
        return []
    return [
        f"The base model predicts the training target no better than its opposite (loss {straight:.3f} against "
        f"{flipped:.3f}). That is normal for random weights only."
    ]
