"""AdamW, and the form of it whose moments live in main memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..model import copies

MOMENTS = ("exp_avg", "exp_avg_sq")
_PART_VALUES = 2**24
"""Values whose moments are on the device at a time, 128 MB."""


class OffloadedAdamW(torch.optim.AdamW):
    """AdamW whose moments visit the device for the length of an update, some parameters at a time. The numbers are the
    same: the same kernel works on the same values.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        group = self.param_groups[0]
        everything: Sequence[nn.Parameter] = group["params"]
        try:
            for part in _parts(everything):
                group["params"] = part
                homes = {parameter: self._bring(parameter) for parameter in part}
                super().step(closure)
                for parameter, home in homes.items():
                    self._send_home(parameter, home)
        finally:
            group["params"] = everything

    def _bring(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state = self.state[parameter]
        home = {name: state[name] for name in MOMENTS if name in state}
        state.update({name: tensor.to(parameter.device, non_blocking=True) for name, tensor in home.items()})
        return home

    def _send_home(self, parameter: nn.Parameter, home: dict[str, Tensor]) -> None:
        state = self.state[parameter]
        for name in MOMENTS:
            if name not in state:
                continue  # no gradient, so nothing was made
            place = home.get(name)
            if place is None:
                place = copies.pinned(parameter.numel(), parameter.dtype, parameter.device).view(parameter.shape)
            state[name] = place.copy_(state[name], non_blocking=True)


def make_optimizer(parameters: Sequence[nn.Parameter], *, weight_decay: float, offload: bool) -> torch.optim.AdamW:
    """AdamW in one kernel per update. The learning rate is set before each."""
    kind = OffloadedAdamW if offload else torch.optim.AdamW
    return kind(parameters, lr=0.0, weight_decay=weight_decay, fused=True)


def update(optimizer: torch.optim.AdamW, *, rate: float, skip: Tensor) -> None:
    """One update with the gradients that the parameters have; none, on the device's own decision, where `skip` is 1."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    # The attribute by which torch's gradient scaler tells a fused optimiser the same.
    optimizer.found_inf = skip  # type: ignore[attr-defined]
    optimizer.step()


def set_state(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, entries: Mapping[str, Tensor]) -> None:
    """Give the optimiser a parameter's saved state, each tensor where it belongs."""
    state: dict[str, Any] = {}
    for name, tensor in entries.items():
        if name in MOMENTS and isinstance(optimizer, OffloadedAdamW):
            home = copies.pinned(tensor.numel(), tensor.dtype, parameter.device).view(tensor.shape)
            state[name] = home.copy_(tensor)
        else:
            # A copy, because what was read inside a node's inference mode cannot be updated outside of it.
            state[name] = tensor.clone().to(parameter.device)
    optimizer.state[parameter] = state


def _parts(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    parts: list[list[nn.Parameter]] = [[]]
    size = 0
    for parameter in parameters:
        if parts[-1] and size + parameter.numel() > _PART_VALUES:
            parts.append([])
            size = 0
        parts[-1].append(parameter)
        size += parameter.numel()
    return parts
