"""Teach the tiny base for a minute, so that training a LoRA on it means something.

A random network cannot tell a right from a wrong sign, and a LoRA cannot repair it. Two kinds of data make one that
both can be seen on: a few pictures with their captions, which it learns by heart (so it learns to hold a picture, to
subtract it and to divide by the noise level, which is what a LoRA then redirects to another picture), and endless
mixtures of them, which keep it honest about what it has not seen.
"""

from __future__ import annotations

import math

import torch

Lesson = tuple[torch.Tensor, torch.Tensor | None]
"""A normalised latent (1, C, h, w) and its text features (1, L, F), or None to teach without text."""

LEARNING_RATE = 4e-3
WARMUP_STEPS = 50
PIXELS_PER_BATCH = 10 * 64 * 64
BY_HEART = 0.75  # share of lessons taken as they are; the rest are mixtures
ANYWHERE = 0.3  # share of noise levels drawn uniformly instead of by the resolution's law
TEXT_TOKENS = 10  # enough to tell the captions apart, and most of the cost


def teach(model: torch.nn.Module, lessons: list[Lesson], *, steps: int, seed: int) -> None:
    """Train every weight of the fp32 model in place by flow matching, in ComfyUI's sign and time conventions."""
    import comfy.model_management

    generator = torch.Generator().manual_seed(seed)
    by_size: dict[torch.Size, list[Lesson]] = {}
    for lesson in lessons:
        by_size.setdefault(lesson[0].shape, []).append(lesson)
    groups = list(by_size.values())
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01)
    comfy.model_management.in_training = True  # ComfyUI's differentiable rotary embedding
    try:
        for step in range(steps):
            rate = min(1, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * rate
            loss = lesson_loss(model, *draw_batch(groups, generator), generator)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    finally:
        comfy.model_management.in_training = False
        model.requires_grad_(False)


def lesson_loss(
    model: torch.nn.Module, latent: torch.Tensor, text: torch.Tensor | None, generator: torch.Generator
) -> torch.Tensor:
    """Mean squared error of the velocity, noise - data, at fresh noise and noise levels."""
    noise = torch.randn(latent.shape, generator=generator)
    sigma = draw_sigmas(len(latent), latent.shape[-2] * latent.shape[-1] * 256, generator)
    mix = sigma.view(-1, 1, 1, 1)
    return torch.nn.functional.mse_loss(model(mix * noise + (1 - mix) * latent, sigma, text), noise - latent)


def draw_sigmas(count: int, pixels: int, generator: torch.Generator) -> torch.Tensor:
    """Ideogram's logit-normal law for that many pixels, with a uniform share that covers all levels."""
    normal = torch.randn(count, generator=generator)
    uniform = torch.rand(count, generator=generator)
    anywhere = torch.rand(count, generator=generator) < ANYWHERE
    sigma = torch.sigmoid(0.5 * math.log(pixels / 512**2) + 1.5 * normal)
    return torch.where(anywhere, uniform, sigma).clamp(0.002, 0.998)


def draw_batch(groups: list[list[Lesson]], generator: torch.Generator) -> Lesson:
    """Lessons of one size: some as they are, some laid over another one that was shifted (and mixed like it)."""
    group = groups[_index(len(groups), generator)]
    height, width = group[0][0].shape[-2:]
    count = max(1, PIXELS_PER_BATCH // (height * width * 256))
    first, second = ([group[_index(len(group), generator)] for _ in range(count)] for _ in range(2))
    as_it_is = torch.rand(count, generator=generator) < BY_HEART
    angle = torch.where(as_it_is, 0.0, 2 * math.pi * torch.rand(count, generator=generator))
    shift = (_index(height, generator), _index(width, generator))

    latent = _mix(_latents(first), _latents(second).roll(shift, (2, 3)), angle)
    if group[0][1] is None:
        return latent, None
    length = min([TEXT_TOKENS] + [text.shape[1] for _, text in first + second if text is not None])
    return latent, _mix(_texts(first, length), _texts(second, length), angle)


def _mix(first: torch.Tensor, second: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """A rotation from the first towards the second, which keeps the variance; angle 0 is the first."""
    angle = angle.view(-1, *[1] * (first.ndim - 1))
    return angle.cos() * first + angle.sin() * second


def _latents(lessons: list[Lesson]) -> torch.Tensor:
    return torch.cat([latent for latent, _ in lessons])


def _texts(lessons: list[Lesson], length: int) -> torch.Tensor:
    return torch.cat([text[:, :length] for _, text in lessons if text is not None])


def _index(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
