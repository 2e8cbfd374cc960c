"""A training run, top to bottom. Every other file of the trainer is one noun that is called from here."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TrainSettings
from ..errors import DoesNotFit, NonFinite, UserError
from ..lora_files import LoraWeights, TrainingRecord
from ..model import host
from ..model.adapters import Adapters, inject_adapters
from ..model.encode import TrainingData
from ..model.memory import MemoryMode, MemoryPlan, adapter_values
from ..model.network import Network, open_network
from ..model.objective import velocity_loss
from ..model.quantized import use_quantized_products
from .clock import Clock
from .facts import RunFacts, run_facts
from .feed import BatchFeed
from .fit import plan_run, too_large
from .optimizer import make_optimizer, update
from .outcomes import Outcomes, not_finite
from .parallel import FollowedRun, Team
from .plan import learning_rate
from .previews import Previews, PreviewSettings
from .record import training_record
from .report import StepReport, step_report
from .run import Run
from .run_file import describe_run
from .run_log import Listeners, RunLog
from .runs import RunPlace
from .self_check import self_check
from .start import start_from
from .state import RunState, capture
from .streams import generator
from .validation import Validation


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
    previews: PreviewSettings | None = None,
    team: Team | None = None,
    on_plan: Callable[[MemoryPlan], None] = lambda plan: None,
    on_step: Callable[[StepReport], None] = lambda report: None,
    on_note: Callable[[str], None] = lambda note: None,
    on_event: Callable[[str, str], None] = lambda run, event: None,
) -> TrainedLora:
    """Train a LoRA for the model of a ComfyUI `ModelPatcher` on encoded data, in a new run or in one that goes on.

    The model is left bit-identical. Whatever ends the run early, cancelling included, the steps done so far are on disk
    before the exception leaves this function. Cancelling raises ComfyUI's interrupt. Raises `WrongModel`,
    `TrainingDataMismatch`, `SettingsError`, `RunNotFound`, `RunChanged`, `CheckpointUnreadable`, `SelfCheckFailed`,
    `NonFinite`, `SaveFailed` and `DoesNotFit`; with `previews` `WrongVae` and `WrongTextEncoder`, and with a `team` of
    several processes `PeerStopped`.
    """
    plan = plan_run(patcher, data, settings)
    facts = run_facts(settings, data, patcher, start_lora=place.start_lora)
    team = team or Team()
    facts = team.require_same(facts)
    log = RunLog(Listeners(on_note, on_event)) if team.leads else RunLog()
    shown = Previews(previews if team.leads else None, patcher, log)
    with contextlib.closing(_open_run(patcher, data, place, facts, team, log)) as run:
        network: Network | None = None
        while True:
            try:
                with open_network(patcher, plan) as network:
                    return _train(network, data, settings, run, plan, team, shown, on_plan, on_step)
            except UserError as error:
                raise type(error)(f"{error} {run.stopped(error.code)}".strip()) from error
            except BaseException as error:
                # Boundary of the run: whatever ends it, say what is saved. Out of memory may be tried again.
                if not host.is_out_of_memory(error):
                    run.log.note(run.stopped("cancelled" if host.is_interrupt(error) else "failed"))
                    raise
                reason = str(error).split("\n")[0]
            finally:
                network = None  # or this name would keep all of its tensors until the next attempt has loaded the model
                host.empty_cache()
            # Here and not in the handler, because the exception keeps every tensor of its frames alive.
            smaller = plan.smaller()
            if smaller is not None and team.world > 1:
                # Going on with less would need a second meeting of all, for what one setting avoids.
                mode = MemoryMode(min(plan.mode + 1, MemoryMode.STREAMED))
                raise DoesNotFit(
                    f"The device ran out of memory ({reason}). Set memory_mode to {mode} in run.json and start again: "
                    f"the result is the same, and takes more time. {run.stopped('failed')}".strip()
                )
            if smaller is None:
                saved = run.stopped(DoesNotFit.code)
                # The prediction was too low, so the advice has to be for clearly less.
                advice = too_large(patcher, data, settings, reason, plan.predicted_bytes * 3 // 4)
                raise DoesNotFit(f"{advice} {saved}".strip())
            plan = smaller
            run.log.note(
                f"The device ran out of memory ({reason}). Going on from step {max(0, run.saved_step)} with less: "
                f"{plan}. The result is the same, and takes more time."
            )


def _open_run(
    patcher: Any, data: TrainingData, place: RunPlace, facts: RunFacts, team: Team, log: RunLog
) -> Run | FollowedRun:
    if not team.leads:
        return FollowedRun(place, facts, log)
    return Run(
        place,
        facts,
        data,
        run_file=describe_run(patcher, data, facts.settings, place),
        # Weights and two moments, in fp32.
        checkpoint_bytes=12 * adapter_values(patcher.model.diffusion_model, facts.settings),
        log=log,
    )


def _train(
    network: Network,
    data: TrainingData,
    settings: TrainSettings,
    run: Run | FollowedRun,
    plan: MemoryPlan,
    team: Team,
    previews: Previews,
    on_plan: Callable[[MemoryPlan], None],
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
    if settings.compile_blocks:
        network.compile(
            lambda reason: run.log.note(f"torch.compile does not work here, so it is done without: {reason}")
        )
    if settings.quantized_products:
        run.log.note(str(use_quantized_products(network.module, network.device, network.dtype)))
    network.arrange(kept_blocks=plan.kept_blocks, offload_inputs=plan.offloads)
    parameters = list(adapters.parameters().values())
    optimizer = make_optimizer(parameters, weight_decay=settings.weight_decay, offload=plan.offloads)
    statistics = data.statistics(settings.latent_statistics)

    # ---- prove that training can work --------------------------------------------------------------------------
    notes = self_check(network, adapters, data, statistics, settings.seed)

    # ---- the first checkpoint of a new run, or the newest of one that goes on ----------------------------------
    history, seconds_before = team.same_start(run.begin(adapters, optimizer), adapters, optimizer)
    for note in notes:
        run.log.note(note)
    run.log.planned(plan)
    on_plan(plan)
    previews.announce()
    validation = Validation(data, settings, statistics, rank=team.rank, world=team.world)
    first_step, clock = len(history.entries), Clock()
    outcomes = Outcomes(network.device)

    def settle(*, wait: bool) -> Iterator[StepReport]:
        """Enter the steps that the device is done with into the history and the journal."""
        for outcome in outcomes.take(wait=wait):
            history.add(outcome.loss if outcome.finite else None)
            report = step_report(
                outcome,
                settings,
                smoothed_loss=history.smoothed,
                clock=clock,
                first_step=first_step,
                peak_bytes=network.usage.peak(),
            )
            run.log.step_done(report)
            yield report

    def state() -> RunState:
        for _ in settle(wait=True):
            pass
        return capture(adapters, optimizer, history, seconds_before + clock.seconds())

    def look(step: int, *, measure: bool, show: bool, last: bool) -> bool:
        """Measure and make pictures after `step` steps. Returns whether all pictures were made."""
        with clock.beside():
            if measure:
                run.log.record("beside", step=step, what="validation")
                run.validated(validation.measure(network, lambda sums: team.add_up(sums, [])), state)
            if not show:
                return False
            run.log.record("beside", step=step, what="previews")
            learnt, leave = lambda: trained_weights(adapters) if step else {}, run.checkpoint_bytes
            return previews.make(network, run.folder, step, learnt, last=last, leave_bytes=leave)

    # ---- steps -------------------------------------------------------------------------------------------------
    between_steps = True
    own = {"rank": team.rank, "world": team.world, "first_step": first_step}
    stop = False
    try:
        # What an interruption has kept from the step that is gone on from, and of a new run that of the base model.
        last = first_step == settings.steps
        measure = validation.due(first_step, last=last) and not (team.world == 1 and run.has("validation", first_step))
        show = previews.due(first_step, last=last) and run.has("preview", first_step) < previews.count
        look(first_step, measure=measure, show=show, last=last)
        clock.start()
        with contextlib.closing(BatchFeed(data, settings, statistics, network.device, **own)) as feed:
            for step in range(first_step, settings.steps):
                loss = torch.zeros((), dtype=torch.float64, device=network.device)
                for batch in feed.next_step():
                    host.raise_if_interrupted()
                    velocity = network.velocity(batch.noised, batch.sigma, batch.text, batch.text_mask)
                    share = velocity_loss(velocity, batch.target).sum() / settings.items_per_step
                    share.backward()
                    loss += share.detach()
                team.add_up(loss, parameters)

                grad_norm = clip_gradients(parameters, settings.max_grad_norm)
                rate = learning_rate(settings, step)
                between_steps = False
                # Decided on the device, so that nothing waits for it: an update that is not finite changes nothing.
                update(optimizer, rate=rate, skip=not_finite(loss, grad_norm))
                outcomes.add(step, rate, loss, grad_norm)
                between_steps = True
                optimizer.zero_grad(set_to_none=True)

                asked = run.asked()
                ends = step + 1 == settings.steps
                stop = "stop" in asked and not ends and team.ends_early()
                last = stop or ends
                save = last or run.due(step + 1) or "save" in asked
                measure = not stop and validation.due(step + 1, last=last)
                show = previews.due(step + 1, last=last, asked="preview" in asked) and not stop
                for report in settle(wait=save or measure or show):
                    on_step(report)
                    history.require_stable()
                saved = save and run.save_or_go_on(state, last=last)
                shown = look(step + 1, measure=measure, show=show, last=last)
                run.answer(asked, save=saved, preview=shown)
                if stop:
                    break
        host.raise_if_interrupted()
        run.log.note(team.finish(parameters))
        run.finish(state, early=stop)
        run.log.measured(plan, network.usage.peak())
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


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients down to a total norm of `max_norm` (0: leave them). Returns the norm that they had, a scalar."""
    limit = max_norm if max_norm > 0 else math.inf
    return torch.nn.utils.clip_grad_norm_(parameters, limit)


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
