"""Settings of a training run: one frozen dataclass, checked when it is made.

The node, a settings file and the HTTP API all build this same object, so a value that is refused in one place is
refused in all, with the same sentence.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from .errors import SettingsError

SCHEDULES = ("constant", "cosine")
LATENT_STATISTICS = ("ideogram", "vae")
MEMORY_MODES = ("auto", "resident", "offloaded", "streamed")
_SWITCHES = ("train_modulation", "rank_stabilized", "gradient_checkpointing", "compile_blocks", "quantized_products")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What a run computes and how often it is saved. The defaults are the recommended run."""

    steps: int = 1000
    """Optimiser steps."""
    learning_rate: float = 1e-4
    """Peak learning rate of AdamW."""
    rank: int = 32
    """Rank of every adapter; alpha is always equal to it."""
    seed: int = 0
    """Root of all randomness: adapter initialisation, item order, noise and noise levels."""

    batch_size: int = 1
    """Images per forward pass."""
    gradient_accumulation: int = 1
    """Forward passes per optimiser step."""
    schedule: str = "constant"
    """Learning rate after the warm-up: `constant`, or half a `cosine` that ends near zero."""
    warmup_steps: int = 20
    """Steps over which the learning rate rises from near zero; never more than a tenth of the run."""
    weight_decay: float = 0.01
    """Decoupled weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this total norm; 0 switches clipping off."""
    sigma_mu: float = 0.0
    """Mean of the logit-normal noise level law, before the resolution term is added."""
    sigma_std: float = 1.5
    """Standard deviation of the logit-normal noise level law."""
    train_modulation: bool = False
    """Adapt the 34 `adaln_modulation` layers as well as the 170 of attention and feed-forward."""
    rank_stabilized: bool = False
    """Scale adapters by alpha/sqrt(rank) instead of alpha/rank (rsLoRA, arXiv:2312.03732)."""
    gradient_checkpointing: bool = True
    """Recompute as many blocks in the backward pass as memory asks for, instead of keeping all their activations."""
    memory_mode: str = "auto"
    """What lies on the device: everything (`resident`); all but the inputs of blocks and the optimiser's moments
    (`offloaded`); or of the weights, too, only those in use (`streamed`). `auto` takes the first that fits."""
    compile_blocks: bool = False
    """Fuse the elementwise parts of the blocks with `torch.compile`: the last digits differ."""
    quantized_products: bool = False
    """Multiply in the weights' own fp8 or int8 on a GPU that can, as sampling does: faster, and within a measured
    tolerance."""
    latent_statistics: str = "ideogram"
    """Normalise latents with Ideogram's published constants, or with the statistics inside the VAE file."""
    checkpoint_every: int = 0
    """Steps between two checkpoints; 0 writes one every ten minutes. One at the end is always written."""
    keep_checkpoints: int = 2
    """Checkpoints that stay on disk; older ones are deleted after a newer one is in place."""

    validation_images: int = 0
    """Images that are held out from training, to measure the loss on; 0 measures none."""
    validation_every: int = 100
    """Steps between two measurements of the images held out; also measured at the beginning and the end."""

    def __post_init__(self) -> None:
        _check_int(self, "steps", 1, 40_000)
        _check_float(self, "learning_rate", 1e-6, 1e-2)
        _check_int(self, "rank", 1, 512)
        _check_int(self, "seed", 0, 2**64 - 1)
        _check_int(self, "batch_size", 1, 64)
        _check_int(self, "gradient_accumulation", 1, 1024)
        _check_choice(self, "schedule", SCHEDULES)
        _check_int(self, "warmup_steps", 0, 40_000)
        _check_float(self, "weight_decay", 0.0, 1.0)
        _check_float(self, "max_grad_norm", 0.0, 1e6)
        _check_float(self, "sigma_mu", -5.0, 5.0)
        _check_float(self, "sigma_std", 0.1, 5.0)
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise SettingsError(f"{name} must be true or false, not {getattr(self, name)!r}.")
        _check_choice(self, "memory_mode", MEMORY_MODES)
        _check_choice(self, "latent_statistics", LATENT_STATISTICS)
        _check_int(self, "checkpoint_every", 0, 40_000)
        _check_int(self, "keep_checkpoints", 1, 1000)
        _check_int(self, "validation_images", 0, 1000)
        _check_int(self, "validation_every", 1, 40_000)

    @property
    def items_per_step(self) -> int:
        """Images that one optimiser step averages over."""
        return self.batch_size * self.gradient_accumulation

    def to_json(self) -> str:
        """One line of JSON that `from_mapping(json.loads(...))` turns back into the same settings."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TrainSettings:
        """Build settings from plain values, refusing names that do not exist.

        Raises `SettingsError` that names the unknown or rejected setting.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise SettingsError(f"Unknown setting {', '.join(unknown)}. Known settings: {', '.join(sorted(known))}.")
        return cls(**values)


def _check_int(settings: TrainSettings, name: str, low: int, high: int) -> None:
    value = getattr(settings, name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise SettingsError(f"{name} must be a whole number from {low} to {high}, not {_shown(value)}.")


def _check_float(settings: TrainSettings, name: str, low: float, high: float) -> None:
    value = getattr(settings, name)
    # The comparison is false for NaN, and it can be made for integers that are beyond every float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise SettingsError(f"{name} must be a number from {low:g} to {high:g}, not {_shown(value)}.")


def _check_choice(settings: TrainSettings, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(settings, name)
    if value not in choices:
        raise SettingsError(f"{name} must be one of {', '.join(choices)}, not {_shown(value)}.")


def _shown(value: object) -> str:
    """A value for a message, which may be anything and of any length."""
    text = ascii(value) if isinstance(value, str | int | float | None) and not _is_giant(value) else "that"
    return text if len(text) <= 80 else f"{text[:80]}..."


def _is_giant(value: object) -> bool:
    return isinstance(value, int) and value.bit_length() > 1000
