"""Which tensors of a file make up which update: every key must have a meaning, or the file is refused.

Works on names, shapes and dtypes alone, so that a file is judged from its header, before a tensor is built.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch

from ..errors import LoraMismatch, LoraUnreadable
from .layouts import LayerName, layout_of, locate
from .wording import some_of

_ROLES = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".alpha": "alpha",
}
_OTHER_METHODS = (
    (re.compile(r"dora_scale|lora_magnitude_vector"), "a DoRA"),
    (re.compile(r"\.hada_"), "a LoHa"),
    (re.compile(r"\.lokr_"), "a LoKr"),
    (re.compile(r"\.b?oft_"), "an OFT adapter"),
    (re.compile(r"\.lora_mid\."), "a LoCon with a middle matrix"),
    (re.compile(r"\.(diff|diff_b|w_norm|b_norm|set_weight|reshape_weight)$"), "a file with full weight differences"),
    (re.compile(r"\.lora_(A|B|up|down)(\.default)?\.bias$"), "a LoRA with biases"),
)
_WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_ALPHA_DTYPES = (*_WEIGHT_DTYPES, torch.float64, torch.int64, torch.int32)


class TensorInfo(NamedTuple):
    """What is known of a tensor without building it. An unknown dtype is the text that the header gives."""

    shape: tuple[int, ...]
    dtype: torch.dtype | str


@dataclasses.dataclass(frozen=True)
class Pair:
    """The keys of one update (of one of q, k and v, where a file splits them)."""

    layer: LayerName
    down: str
    up: str
    alpha: str | None


def plan_pairs(tensors: Mapping[str, TensorInfo], name: str) -> tuple[str, list[Pair]]:
    """The layout's name and the pairs that the keys form. `name` is the file's, for the messages.

    Raises `LoraUnreadable` for another adapter method, unknown keys, half a pair, doubled layers, mixed layouts,
    wrong shapes and dtypes; `LoraMismatch` when the layers are not those of Ideogram 4.
    """
    roles = _roles_by_base(tensors, name)
    layers = _locate_all(roles, name)
    prefixes = sorted({layer.prefix for layer in layers.values()})
    if len(prefixes) > 1:
        raise LoraUnreadable(
            f"{name} mixes keys of different layouts ({some_of(repr(prefix) for prefix in prefixes)} in front of the "
            "layer names). It was probably joined from several files: load those one by one."
        )
    _refuse_doubled(layers, name)
    pairs = [_pair(base, keys, layers[base], name) for base, keys in roles.items()]
    for pair in pairs:
        _check_pair(pair, tensors, name)
    _check_parts_agree(pairs, tensors, name)
    adapter_named = any(pair.down.endswith(".default.weight") for pair in pairs)
    return layout_of(layers.values(), adapter_named), pairs


def _roles_by_base(keys: Iterable[str], name: str) -> dict[str, dict[str, str]]:
    """{layer name as spelled in the file: {"down" | "up" | "alpha": key}}."""
    roles: dict[str, dict[str, str]] = {}
    unknown = []
    for key in keys:
        suffix = next((suffix for suffix in _ROLES if key.endswith(suffix)), None)
        if suffix is None:
            unknown.append(key)
            continue
        slots = roles.setdefault(key.removesuffix(suffix), {})
        other = slots.setdefault(_ROLES[suffix], key)
        if other != key:
            raise LoraUnreadable(f"{name} holds the same matrix twice: {other} and {key}. Keep only one of them.")
    if unknown:
        _refuse_unknown(unknown, name, any_lora=any("down" in slots or "up" in slots for slots in roles.values()))
    if not roles:
        raise LoraUnreadable(f"{name} is empty: it holds no tensors. Save or download it again.")
    return roles


def _refuse_unknown(unknown: list[str], name: str, *, any_lora: bool) -> None:
    for key in unknown:
        method = next((method for mark, method in _OTHER_METHODS if mark.search(key)), None)
        if method is not None:
            raise LoraUnreadable(
                f"{name} is {method} (key {key}). Only plain LoRA can be read here without changing it; "
                "use ComfyUI's own LoRA loader for this file."
            )
    if not any_lora:
        raise LoraUnreadable(
            f"{name} holds no LoRA weights, only {some_of(unknown, 3)}. "
            "It looks like a full model: choose a LoRA file instead."
        )
    raise LoraUnreadable(
        f"{name} holds keys that are not understood ({len(unknown)}): {some_of(unknown)}. "
        "Nothing was loaded, because leaving them out would change the LoRA."
    )


def _locate_all(bases: Iterable[str], name: str) -> dict[str, LayerName]:
    located = {base: locate(base) for base in bases}
    foreign = [base for base, layer in located.items() if layer is None]
    if len(foreign) == len(located):
        raise LoraMismatch(
            f"{name} was made for another model: its layers ({some_of(foreign, 3)}) are not Ideogram 4's. "
            "Choose a LoRA for Ideogram 4."
        )
    if foreign:
        raise LoraMismatch(
            f"{len(foreign)} of the {len(located)} layers in {name} are not Ideogram 4's: {some_of(foreign)}. "
            "Nothing was loaded, because leaving them out would change the LoRA."
        )
    return {base: layer for base, layer in located.items() if layer is not None}


def _refuse_doubled(layers: Mapping[str, LayerName], name: str) -> None:
    seen: dict[str, dict[int | None, str]] = {}
    for base, layer in layers.items():
        known = seen.setdefault(layer.path, {})
        if layer.part in known or None in known or (known and layer.part is None):
            other = known.get(layer.part) or next(iter(known.values()))
            raise LoraUnreadable(f"{name} describes {layer.path} twice: as {other} and as {base}. Keep only one.")
        known[layer.part] = base


def _pair(base: str, keys: Mapping[str, str], layer: LayerName, name: str) -> Pair:
    if "down" not in keys or "up" not in keys:
        there = some_of(keys.values())
        missing = " and ".join(role for role in ("down", "up") if role not in keys)
        raise LoraUnreadable(
            f"{name} is incomplete: {base} has {there} but no {missing} matrix. Save or download the file again."
        )
    return Pair(layer, keys["down"], keys["up"], keys.get("alpha"))


def _check_pair(pair: Pair, tensors: Mapping[str, TensorInfo], name: str) -> None:
    down, up = tensors[pair.down], tensors[pair.up]
    if len(down.shape) != 2 or len(up.shape) != 2 or down.shape[0] != up.shape[1] or 0 in down.shape + up.shape:
        raise LoraUnreadable(
            f"{name}: the shapes of {pair.down} {_times(down.shape)} and {pair.up} {_times(up.shape)} do not make a "
            "LoRA; (rank x in) and (out x rank) are needed. The file is broken or of another kind."
        )
    for key in (pair.down, pair.up):
        if tensors[key].dtype not in _WEIGHT_DTYPES:
            raise LoraUnreadable(
                f"{name}: {key} is stored as {_dtype_name(tensors[key].dtype)}; "
                "only float32, float16 and bfloat16 are read. Save the LoRA again in one of these."
            )
    if pair.alpha is not None:
        alpha = tensors[pair.alpha]
        if any(size != 1 for size in alpha.shape) or alpha.dtype not in _ALPHA_DTYPES:
            raise LoraUnreadable(
                f"{name}: {pair.alpha} must be a single number, not {_dtype_name(alpha.dtype)} {_times(alpha.shape)}. "
                "The file is broken or of another kind."
            )


def _check_parts_agree(pairs: Iterable[Pair], tensors: Mapping[str, TensorInfo], name: str) -> None:
    """q, k and v of one layer must have equal sizes, or their rows in the fused layer are unknown."""
    sizes: dict[str, tuple[int, int]] = {}
    for pair in pairs:
        if pair.layer.part is not None:
            size = tensors[pair.up].shape[0], tensors[pair.down].shape[1]
            if sizes.setdefault(pair.layer.path, size) != size:
                raise LoraUnreadable(
                    f"{name}: q, k and v of {pair.layer.path} have different sizes "
                    f"({_times(sizes[pair.layer.path])} and {_times(size)}), unlike those of Ideogram 4. "
                    "Choose a LoRA for Ideogram 4."
                )


def _times(shape: tuple[int, ...]) -> str:
    return f"({' x '.join(map(str, shape))})"


def _dtype_name(dtype: torch.dtype | str) -> str:
    return str(dtype).removeprefix("torch.")
