"""A training run, top to bottom. Every other file of the trainer is one noun that is called from here."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TrainSettings
from ..errors import DoesNotFit, NonFinite, TrainingDataMismatch, UserError
from ..lora_files import LoraWeights, TrainingRecord
from ..model import host
from ..model.adapters import Adapters, inject_adapters
from ..model.encode import TrainingData, projection_identity
from ..model.memory import MemoryMode, activation_bytes, adapter_values, device_memory_bytes
from ..model.network import Network, check_model, open_network
from ..model.objective import velocity_loss
from .batch import make_batch
from .facts import run_facts
from .plan import learning_rate, plan_step
from .record import training_record
from .report import StepReport
from .run import Run
from .runs import RunPlace
from .self_check import self_check
from .start import start_from
from .state import RunState, capture
from .streams import generator


@dataclasses.dataclass(frozen=True)
class TrainedLora:
    """The result of a run: adapter weights by module path, and how they came about."""

    modules: dict[str, LoraWeights]
    record: TrainingRecord
    losses: list[float]
    """Of every step that was applied, those before a resume included."""
    run: str
    """Name of the run's folder."""


def train(
    patcher: Any,
    data: TrainingData,
    settings: TrainSettings,
    place: RunPlace,
    *,
    on_step: Callable[[StepReport], None] = lambda report: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> TrainedLora:
    """Train a LoRA for the model of a ComfyUI `ModelPatcher` on encoded data, in a new run or in one that goes on.

    The model is left bit-identical. Whatever ends the run early, cancelling included, the steps done so far are on disk
    before the exception leaves this function. Cancelling raises ComfyUI's interrupt. Raises `WrongModel`,
    `TrainingDataMismatch`, `RunNotFound`, `RunChanged`, `CheckpointUnreadable`, `SelfCheckFailed`, `NonFinite`,
    `SaveFailed` and `DoesNotFit`.
    """
    needed_bytes = check_run(patcher, data, settings)
    facts = run_facts(settings, data, patcher, start_lora=place.start_lora)
    # Weights and two moments, in fp32.
    checkpoint_bytes = 12 * adapter_values(patcher.model.diffusion_model, settings)
    mode = MemoryMode.RECOMPUTE if settings.gradient_checkpointing else MemoryMode.KEEP
    with contextlib.closing(Run(place, facts, data, checkpoint_bytes=checkpoint_bytes, on_note=on_note)) as run:
        while True:
            try:
                offload = mode is MemoryMode.OFFLOAD
                with open_network(patcher, activation_bytes=needed_bytes, offload=offload) as network:
                    return _train(network, data, settings, run, mode, on_step)
            except UserError as error:
                raise type(error)(f"{error} {run.stopped(error.code)}".strip()) from error
            except BaseException as error:
                # Boundary of the run: whatever ends it, say what is saved. Out of memory may be tried again.
                if not host.is_out_of_memory(error):
                    run.note(run.stopped("cancelled" if host.is_interrupt(error) else "failed"))
                    raise
                reason = str(error).split("\n")[0]
            finally:
                host.empty_cache()
            # Here and not in the handler, because the exception keeps every tensor of its frames alive.
            if mode is MemoryMode.OFFLOAD:
                saved = run.stopped(DoesNotFit.code)
                tried = dataclasses.replace(settings, gradient_checkpointing=True)
                raise DoesNotFit(f"{_too_large(data, tried, f'{mode}: {reason}')} {saved}".strip())
            mode = MemoryMode(mode + 1)
            run.note(
                f"The device ran out of memory ({reason}). Going on from step {max(0, run.saved_step)} with {mode}: "
                "the same result with less memory, in more time."
            )


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


def _train(
    network: Network,
    data: TrainingData,
    settings: TrainSettings,
    run: Run,
    mode: MemoryMode,
    on_step: Callable[[StepReport], None],
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
    start_from(adapters, run.place.start_modules, name=run.place.start_lora)
    if mode >= MemoryMode.RECOMPUTE:
        network.checkpoint_blocks()
    parameters = list(adapters.parameters().values())
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    statistics = data.statistics(settings.latent_statistics)

    # ---- prove that training can work --------------------------------------------------------------------------
    notes = self_check(network, adapters, data, statistics, settings.seed)

    # ---- the first checkpoint of a new run, or the newest of one that goes on ----------------------------------
    history, seconds_before = run.begin(adapters, optimizer)
    for note in notes:
        run.note(note)
    first_step, started = len(history.entries), time.monotonic()

    def state() -> RunState:
        return capture(adapters, optimizer, history, seconds_before + time.monotonic() - started)

    # ---- steps -------------------------------------------------------------------------------------------------
    between_steps = True
    try:
        for step in range(first_step, settings.steps):
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
            finite = math.isfinite(loss) and math.isfinite(grad_norm)
            between_steps = False
            if finite:
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
            history.add(loss if finite else None)
            between_steps = True
            optimizer.zero_grad(set_to_none=True)

            seconds = (time.monotonic() - started) / (step + 1 - first_step)
            report = StepReport(
                step=step + 1,
                steps=settings.steps,
                loss=loss,
                smoothed_loss=history.smoothed,
                learning_rate=rate,
                grad_norm=grad_norm,
                skipped=not finite,
                seconds_per_step=seconds,
                seconds_left=seconds * (settings.steps - step - 1),
            )
            run.step_done(report)
            on_step(report)
            history.require_stable()
            if run.due(step + 1) and step + 1 < settings.steps:
                run.save_or_go_on(state)
        host.raise_if_interrupted()
        run.finish(state)
    except BaseException:
        # Whatever ends the run, cancel included: what is done up to the last whole step is saved before anything else.
        if between_steps:
            run.save_on_the_way_out(state)
        raise

    # ---- the result --------------------------------------------------------------------------------------------
    if not history.applied:
        raise NonFinite(
            "The loss or gradient was not finite in any step, so nothing was trained. "
            "Check that the model makes images with these files, and lower the learning rate."
        )
    record = training_record(run.facts, data, history.entries)
    return TrainedLora(trained_weights(adapters), record, history.applied, run.name)


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> float:
    """Scale gradients down to a total norm of `max_norm` (0: leave them) and return the norm they had."""
    limit = max_norm if max_norm > 0 else math.inf
    return torch.nn.utils.clip_grad_norm_(parameters, limit).item()


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
