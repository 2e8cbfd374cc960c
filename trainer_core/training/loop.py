"""A training run, top to bottom. Every other file of the trainer is one noun that is called from here."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TrainSettings
from ..errors import DoesNotFit, NonFinite, TrainingDataMismatch
from ..lora_files import LoraWeights, TrainingRecord
from ..model import host
from ..model.adapters import Adapters, inject_adapters
from ..model.encode import TrainingData, projection_identity
from ..model.memory import activation_bytes, device_memory_bytes
from ..model.network import Network, check_model, model_file_name, open_network
from ..model.objective import velocity_loss
from .batch import make_batch
from .guards import NonFiniteGuard
from .plan import learning_rate, plan_step
from .record import training_record
from .self_check import self_check
from .streams import generator

log = logging.getLogger(__name__)

SMOOTHING = 0.98
"""Weight of the past in the smoothed loss; one step at batch 1 says little, its noise level decides the loss."""


@dataclasses.dataclass(frozen=True)
class StepReport:
    """What a step did, for whoever shows it."""

    step: int
    """Steps done, from 1."""
    steps: int
    loss: float
    smoothed_loss: float
    learning_rate: float
    grad_norm: float
    skipped: bool
    """The update was not applied because the loss or gradient was not finite."""
    seconds_per_step: float
    seconds_left: float


@dataclasses.dataclass(frozen=True)
class TrainedLora:
    """The result of a run: adapter weights by module path, and how they came about."""

    modules: dict[str, LoraWeights]
    record: TrainingRecord
    losses: list[float]
    """Of every step that was applied."""
    notes: list[str]


def train(
    patcher: Any,
    data: TrainingData,
    settings: TrainSettings,
    *,
    on_step: Callable[[StepReport], None] = lambda report: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> TrainedLora:
    """Train a LoRA for the model of a ComfyUI `ModelPatcher` on encoded data.

    The model is left bit-identical. Cancelling raises ComfyUI's interrupt. Raises `WrongModel`,
    `TrainingDataMismatch`, `SelfCheckFailed`, `NonFinite` and `DoesNotFit`.
    """
    needed_bytes = check_run(patcher, data, settings)
    try:
        return _open_and_train(patcher, data, settings, needed_bytes, on_step, on_note)
    except Exception as error:
        # Boundary with the device: only its out-of-memory signal is translated, everything else passes unchanged.
        if not host.is_out_of_memory(error):
            raise
        reason = str(error).split("\n")[0]
    finally:
        host.empty_cache()
    # Raised outside the handler, because the caught exception keeps every tensor of its frames alive.
    raise DoesNotFit(_too_large(data, settings, reason))


def check_run(patcher: Any, data: TrainingData, settings: TrainSettings) -> int:
    """Refuse what cannot work before anything is loaded; return the bytes needed beside the base weights.

    Raises `WrongModel`, `TrainingDataMismatch` and `DoesNotFit`.
    """
    diffusion_model = check_model(patcher)
    if data.projection != projection_identity(patcher):
        raise TrainingDataMismatch(
            "The training data was encoded with another model's text layers. "
            "Connect the same model to the encode node and to the train node, and run again."
        )
    needed = activation_bytes(diffusion_model, settings, data.width, data.height)
    available = device_memory_bytes(patcher.load_device)
    if needed > available:
        raise DoesNotFit(_too_large(data, settings, f"about {needed / 2**30:.1f} GiB of {available / 2**30:.1f} GiB"))
    return needed


def _too_large(data: TrainingData, settings: TrainSettings, reason: str) -> str:
    advice = []
    if not settings.gradient_checkpointing:
        advice.append("turn gradient checkpointing on")
    if settings.batch_size > 1:
        advice.append("lower the batch size (gradient accumulation gives the same result as a larger batch)")
    advice.append("choose a smaller resolution or rank")
    return (
        f"Training at {data.width}x{data.height} with batch size {settings.batch_size} and rank {settings.rank} does "
        f"not fit on the device ({reason}). To run again: {', or '.join(advice)}."
    )


def _open_and_train(
    patcher: Any,
    data: TrainingData,
    settings: TrainSettings,
    activation_bytes: int,
    on_step: Callable[[StepReport], None],
    on_note: Callable[[str], None],
) -> TrainedLora:
    with open_network(patcher, activation_bytes=activation_bytes) as network:
        return _train(network, data, settings, model_file_name(patcher), on_step, on_note)


def _train(
    network: Network,
    data: TrainingData,
    settings: TrainSettings,
    base_model: str,
    on_step: Callable[[StepReport], None],
    on_note: Callable[[str], None],
) -> TrainedLora:
    # ---- adapters, optimiser -----------------------------------------------------------------------------------
    adapters = inject_adapters(
        network.module,
        rank=settings.rank,
        rank_stabilized=settings.rank_stabilized,
        train_modulation=settings.train_modulation,
        generator_for=lambda path: generator(settings.seed, "adapter", path),
        device=network.device,
    )
    if settings.gradient_checkpointing:
        network.checkpoint_blocks()
    parameters = list(adapters.parameters().values())
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    statistics = data.statistics(settings.latent_statistics)

    # ---- prove that training can work --------------------------------------------------------------------------
    notes = self_check(network, adapters, data, statistics, settings.seed)
    for note in notes:
        log.warning(note)
        on_note(note)

    # ---- steps -------------------------------------------------------------------------------------------------
    guard = NonFiniteGuard()
    losses: list[float] = []
    smoothed: list[float] = []
    started = time.monotonic()
    for step in range(settings.steps):
        loss = 0.0
        for micro in plan_step(settings, step, len(data.items), data.width, data.height):
            host.raise_if_interrupted()
            batch = make_batch(data, micro, statistics, settings.seed, network.device)
            velocity = network.velocity(batch.noised, batch.sigma, batch.text, batch.text_mask)
            micro_loss = velocity_loss(velocity, batch.target).mean() / settings.gradient_accumulation
            micro_loss.backward()
            loss += micro_loss.item()

        grad_norm = clip_gradients(parameters, settings.max_grad_norm)
        rate = learning_rate(settings, step)
        accepted = guard.accept(step, loss, grad_norm)
        if accepted:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            losses.append(loss)
            smoothed.append(smooth(smoothed[-1] if smoothed else loss, loss, len(losses)))
        optimizer.zero_grad(set_to_none=True)

        seconds = (time.monotonic() - started) / (step + 1)
        on_step(
            StepReport(
                step=step + 1,
                steps=settings.steps,
                loss=loss,
                smoothed_loss=last(smoothed),
                learning_rate=rate,
                grad_norm=grad_norm,
                skipped=not accepted,
                seconds_per_step=seconds,
                seconds_left=seconds * (settings.steps - step - 1),
            )
        )

    if not losses:
        raise NonFinite(
            "The loss or gradient was not finite in any step, so nothing was trained. "
            "Check that the model makes images with these files, and lower the learning rate."
        )
    record = training_record(settings, data, base_model, trained_steps=settings.steps, final_loss=last(smoothed))
    return TrainedLora(trained_weights(adapters), record, losses, notes)


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> float:
    """Scale gradients down to a total norm of `max_norm` (0: leave them) and return the norm they had."""
    limit = max_norm if max_norm > 0 else math.inf
    return torch.nn.utils.clip_grad_norm_(parameters, limit).item()


def smooth(previous: float, loss: float, count: int) -> float:
    """Running mean of the loss: the plain mean at first, then an exponential one of weight `SMOOTHING`."""
    weight = min(SMOOTHING, 1.0 - 1.0 / count)
    return weight * previous + (1.0 - weight) * loss


def last(values: list[float]) -> float:
    """The latest value, NaN while there is none."""
    return values[-1] if values else math.nan


def trained_weights(adapters: Adapters) -> dict[str, LoraWeights]:
    """Adapter weights as fp32 CPU tensors with alpha = rank; an rsLoRA scale is folded into `up`, exactly.

    Raises `NonFinite`, naming the module: a LoRA with a NaN is never handed on.
    """
    modules = {}
    values = {name: p.detach().float().cpu() for name, p in adapters.parameters().items()}
    for path in adapters.layers:
        down, up = values[f"{path}.down"].clone(), values[f"{path}.up"] * adapters.scale
        _require_finite(path, down, up)
        modules[path] = LoraWeights(down=down, up=up, alpha=float(adapters.rank))
    return modules


def _require_finite(path: str, *tensors: Tensor) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise NonFinite(
            f"The trained adapter of {path} holds NaN or infinite values, so nothing was "
            "saved. Lower the learning rate."
        )
