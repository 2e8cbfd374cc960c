"""Begin a run with the weights of an existing LoRA instead of fresh ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..errors import LoraMismatch
from ..lora_files import LoraWeights, match_modules
from ..lora_files.wording import some_of
from ..model.adapters import MODULATION, AdaptedLinear, Adapters
from ..model.host import ComfyModule


def start_from(adapters: Adapters, modules: Mapping[str, LoraWeights], *, name: str) -> None:
    """Put a LoRA's update into freshly initialised adapters, exactly but for the rounding of its scale to fp32.

    A LoRA of lower rank fills the first rows; the others keep their fresh `down` and an `up` of zero, so they add
    nothing yet and can learn. Layers that the LoRA does not have stay fresh. modules: canonical path to update; empty
    changes nothing. Raises `LoraMismatch` when a layer is not trained here, has another size or a higher rank.
    """
    if not modules:
        return
    shapes = {path: _shape(layer) for path, layer in adapters.layers.items()}
    untrained = [path for path in modules if path not in shapes]
    if untrained:
        remedy = "Turn train_modulation on" if all(MODULATION in path for path in untrained) else "Choose another LoRA"
        raise LoraMismatch(f"{name} adapts layers that are not trained here ({some_of(untrained)}). {remedy}.")
    match_modules(modules, shapes, name=name)
    highest = max(weights.rank for weights in modules.values())
    if highest > adapters.rank:
        raise LoraMismatch(
            f"{name} has rank {highest}, this run {adapters.rank}. Set the rank to {highest} or more to start from it."
        )
    parameters = adapters.parameters()
    with torch.no_grad():
        for path, weights in modules.items():
            down, up = parameters[f"{path}.down"], parameters[f"{path}.up"]
            down[: weights.rank] = weights.down.to(down)
            # The update stays scale * up @ down, whatever scale this run trains with.
            up[:, : weights.rank] = weights.up.to(up) * (weights.scale / adapters.scale)


def _shape(layer: AdaptedLinear) -> tuple[int, int]:
    base: ComfyModule = layer.base_layer
    return base.out_features, base.in_features
