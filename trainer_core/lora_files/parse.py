"""A LoRA's tensors, in whatever layout a trainer wrote them, as one update per layer.

Understood: comfy, fal, diffusers (split q, k, v), kohya, bare (OneTrainer), SimpleTuner, DiffSynth and PEFT names,
with `lora_A`/`lora_B` or `lora_down`/`lora_up`, with or without `.alpha`. A missing alpha means alpha = rank.
Nothing is ever left out: what is not understood is refused.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import LoraUnreadable
from .adapter_header import HEADER_KEY, AdapterHeader, read_adapter_header
from .keys import Pair, TensorInfo, plan_pairs
from .layouts import path_order
from .weights import LoraWeights, fuse_qkv

_HEADER_IGNORED = ("comfy", "kohya")
"""Layouts that ComfyUI's own loader reads; it does not look at the header, so neither do we."""


@dataclasses.dataclass(frozen=True)
class ParsedLora:
    """A LoRA as read."""

    layout: str
    """comfy, fal, diffusers, kohya, bare, simpletuner, diffsynth or peft."""
    modules: dict[str, LoraWeights]
    """Canonical path, such as `layers.0.attention.qkv`, to its update; in the model's order."""
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)


def parse_lora(
    state_dict: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, name: str = "The LoRA"
) -> ParsedLora:
    """Recognise the layout of `state_dict` and convert it exactly (see `weights.fuse_qkv` for the one rounding).

    name: the file's name, for the messages. Raises `LoraUnreadable` for anything that is not a complete, finite,
    plain LoRA, and `LoraMismatch` for one whose layers are not Ideogram 4's.
    """
    metadata = dict(metadata or {})
    infos = {key: TensorInfo(tuple(tensor.shape), tensor.dtype) for key, tensor in state_dict.items()}
    layout, pairs = plan_pairs(infos, name)
    header = None if layout in _HEADER_IGNORED else read_adapter_header(metadata, name)
    parts: dict[str, dict[int | None, LoraWeights]] = {}
    for pair in sorted(pairs, key=lambda pair: path_order(pair.layer.path)):
        parts.setdefault(pair.layer.path, {})[pair.layer.part] = _build(pair, state_dict, header, name)
    modules = {
        path: found[None] if None in found else fuse_qkv([found.get(part) for part in range(3)])
        for path, found in parts.items()
    }
    return ParsedLora(layout, modules, metadata)


def _build(pair: Pair, state_dict: Mapping[str, Tensor], header: AdapterHeader | None, name: str) -> LoraWeights:
    down, up = state_dict[pair.down], state_dict[pair.up]
    for key in (pair.down, pair.up):
        if not torch.isfinite(state_dict[key]).all():
            raise LoraUnreadable(
                f"{name}: {key} holds NaN or infinite values, so its training diverged. Use an earlier save."
            )
    return LoraWeights(down, up, _alpha(pair, down.shape[0], state_dict, header, name))


def _alpha(pair: Pair, rank: int, state_dict: Mapping[str, Tensor], header: AdapterHeader | None, name: str) -> float:
    from_header = header.alpha_for(pair.layer.spelled, rank, name) if header else None
    if pair.alpha is None:
        return float(rank) if from_header is None else from_header
    alpha = float(state_dict[pair.alpha].item())
    if not math.isfinite(alpha) or alpha <= 0:
        raise LoraUnreadable(f"{name}: {pair.alpha} is {alpha}; alpha must be above 0. Save the LoRA again.")
    if from_header is not None and from_header != rank:
        raise LoraUnreadable(
            f"{name} states its strength twice, as {pair.alpha} = {alpha:g} and in its {HEADER_KEY} header, and "
            "loaders disagree about which counts. Save the LoRA again without one of them."
        )
    return alpha
