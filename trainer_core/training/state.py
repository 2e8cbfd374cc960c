"""What a run carries from one step to the next. All else is a pure function of its settings and the step number."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import CheckpointUnreadable, NonFinite
from ..lora_files import LoraWeights
from ..model.adapters import Adapters
from .history import LossHistory
from .optimizer import set_state


@dataclasses.dataclass(frozen=True, eq=False)
class RunState:
    """A run between two steps, on the CPU."""

    losses: tuple[float | None, ...]
    """Loss of every step done; None where the update was skipped because something was not finite."""
    seconds: float
    """Time spent in these steps."""
    forgiven: int
    """Skipped steps that no longer count against the run (see `LossHistory`)."""
    adapter: dict[str, LoraWeights]
    """Module path to the fp32 masters as they are; the training scale is in alpha."""
    optimizer: dict[str, Tensor]
    """`<module>.down.<key>` and `<module>.up.<key>` to the optimiser's tensors; empty before the first update."""

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.losses)


def capture(adapters: Adapters, optimizer: torch.optim.Optimizer, history: LossHistory, seconds: float) -> RunState:
    """The state after the last update; steps that were skipped since then are not counted, so they are done again.

    On the CPU it shares memory with what is being trained: use it before the next step. Raises `NonFinite`: what holds
    a NaN cannot be gone on with.
    """
    losses = history.entries
    done = max((step for step, loss in enumerate(losses, start=1) if loss is not None), default=0)
    state = RunState(
        losses=tuple(losses[:done]),
        seconds=seconds,
        forgiven=history.forgiven,
        adapter=raw_weights(adapters),
        optimizer={
            f"{name}.{key}": value.detach().cpu()
            for name, parameter in adapters.parameters().items()
            for key, value in optimizer.state.get(parameter, {}).items()
        },
    )
    for name, tensor in _tensors(state):
        if not tensor.isfinite().all():
            raise NonFinite(f"{name} holds NaN or infinite values, so this state of the run is not saved.")
    return state


def restore(state: RunState, adapters: Adapters, optimizer: torch.optim.Optimizer, *, name: str) -> None:
    """Put a captured state back, bit for bit. `name` is its file's.

    Raises `CheckpointUnreadable` when it belongs to other adapters or another optimiser.
    """
    parameters = adapters.parameters()
    values = {f"{path}.down": weights.down for path, weights in state.adapter.items()}
    values |= {f"{path}.up": weights.up for path, weights in state.adapter.items()}
    per_parameter: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.optimizer.items():
        parameter_name, _, entry = key.rpartition(".")
        per_parameter.setdefault(parameter_name, {})[entry] = tensor

    _check_fit(name, {key: p.shape for key, p in parameters.items()}, values, per_parameter)
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(values[key])
    optimizer.state.clear()
    for key, entries in per_parameter.items():
        set_state(optimizer, parameters[key], entries)


def raw_weights(adapters: Adapters) -> dict[str, LoraWeights]:
    """The fp32 masters by module path, on the CPU, unscaled: `up` is as trained and alpha holds the scale."""
    values = {name: parameter.detach().float().cpu() for name, parameter in adapters.parameters().items()}
    alpha = adapters.rank * adapters.scale
    return {path: LoraWeights(values[f"{path}.down"], values[f"{path}.up"], alpha) for path in adapters.layers}


def _tensors(state: RunState) -> Iterator[tuple[str, Tensor]]:
    for path, weights in state.adapter.items():
        yield f"{path}.down", weights.down
        yield f"{path}.up", weights.up
    yield from state.optimizer.items()


def _check_fit(
    name: str, shapes: dict[str, torch.Size], values: dict[str, Tensor], per_parameter: dict[str, dict[str, Tensor]]
) -> None:
    fits = {key: value.shape for key, value in values.items()} == shapes
    if per_parameter:
        expected = {key: {"step": torch.Size(), "exp_avg": shape, "exp_avg_sq": shape} for key, shape in shapes.items()}
        fits = fits and expected == {
            key: {entry: tensor.shape for entry, tensor in entries.items()} for key, entries in per_parameter.items()
        }
    if not fits:
        raise CheckpointUnreadable(
            f"{name} belongs to adapters of another shape. Train with the rank and the layers that its state.json "
            "names, or start a new run."
        )
