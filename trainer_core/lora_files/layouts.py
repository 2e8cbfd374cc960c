"""How LoRA files name the layers of Ideogram 4, and which layer each name means.

A layer has one canonical path, ComfyUI's own: `layers.0.attention.qkv` (rows q|k|v), `layers.0.attention.o`,
`layers.0.feed_forward.w1`, `w2`, `w3`, `layers.0.adaln_modulation`, and a few outside the blocks. Files differ in
three independent ways, so each is undone on its own: a prefix, dots flattened to underscores (kohya), and diffusers'
split attention (`to_q`, `to_k`, `to_v`, `to_out.0`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

QKV = "attention.qkv"
BLOCK_LAYERS = (QKV, "attention.o", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "adaln_modulation")
"""Linears of one block, the only ones that every loader accepts in a LoRA."""

OUTER_LAYERS = (
    "input_proj",
    "llm_cond_proj",
    "t_embedding.mlp_in",
    "t_embedding.mlp_out",
    "adaln_proj",
    "final_layer.linear",
    "final_layer.adaln_modulation",
)
"""Linears outside the blocks: ComfyUI applies a LoRA on them, diffusers refuses the whole file. Read, never written."""

SPLIT_QKV = ("attention.to_q", "attention.to_k", "attention.to_v")
"""The rows of `attention.qkv` as diffusers' three layers, in order."""
SPLIT_OUT = "attention.to_out.0"

EXPORT_PREFIXES = {"comfy": "diffusion_model.", "fal": "conditional_transformer.", "diffusers": "transformer."}

_LAYOUT_OF_PREFIX = {
    "diffusion_model.": "comfy",
    "conditional_transformer.": "fal",
    "transformer.": "diffusers",
    "lora_unet_": "kohya",
    "lora_transformer_": "kohya",
    "base_model.model.": "peft",
    "": "bare",
}
_IN_BLOCK = (*BLOCK_LAYERS, *SPLIT_QKV, SPLIT_OUT)
_FLAT_IN_BLOCK = {layer.replace(".", "_"): layer for layer in _IN_BLOCK}
_FLAT_OUTER = {layer.replace(".", "_"): layer for layer in OUTER_LAYERS}
_DOTTED = re.compile(r"layers\.(0|[1-9]\d{0,2})\.(.+)")
_FLATTENED = re.compile(r"layers_(0|[1-9]\d{0,2})_(.+)")


@dataclasses.dataclass(frozen=True)
class LayerName:
    """What a name in a file stands for."""

    prefix: str
    spelled: str
    """The name without its prefix and with its dots, as the file's own format knows it: `layers.0.attention.to_q`."""
    path: str
    """The canonical path: `layers.0.attention.qkv`."""
    part: int | None
    """0, 1 or 2 when the name means only the q, k or v rows."""


def locate(name: str) -> LayerName | None:
    """The layer that `name` (a key without `.lora_A.weight` and the like) means, or None if Ideogram 4 has none."""
    prefix = next(prefix for prefix in _LAYOUT_OF_PREFIX if name.startswith(prefix))
    spelled = _spelled_with_dots(name.removeprefix(prefix), flattened=_LAYOUT_OF_PREFIX[prefix] == "kohya")
    if spelled is None:
        return None
    if spelled in OUTER_LAYERS:
        return LayerName(prefix, spelled, spelled, None)
    block, _, layer = spelled.removeprefix("layers.").partition(".")
    if layer in SPLIT_QKV:
        return LayerName(prefix, spelled, f"layers.{block}.{QKV}", SPLIT_QKV.index(layer))
    return LayerName(prefix, spelled, f"layers.{block}.{'attention.o' if layer == SPLIT_OUT else layer}", None)


def layout_of(names: Iterable[LayerName], adapter_named: bool) -> str:
    """The layout's name, for names that share one prefix.

    adapter_named: the keys name PEFT's adapter, as in `lora_A.default.weight`.
    """
    names = list(names)
    layout = _LAYOUT_OF_PREFIX[names[0].prefix]
    if layout == "bare" and adapter_named:
        return "diffsynth"
    if layout == "diffusers" and any(name.spelled.endswith((f".{QKV}", ".attention.o")) for name in names):
        return "simpletuner"
    return layout


def path_order(path: str) -> tuple[int, int]:
    """Sort key: block by block, in the order of `BLOCK_LAYERS`; layers outside the blocks last."""
    match = _DOTTED.fullmatch(path)
    if match is None:
        return 1000, OUTER_LAYERS.index(path)
    return int(match[1]), BLOCK_LAYERS.index(match[2])


def _spelled_with_dots(name: str, *, flattened: bool) -> str | None:
    if not flattened:
        match = _DOTTED.fullmatch(name)
        return name if name in OUTER_LAYERS or (match and match[2] in _IN_BLOCK) else None
    match = _FLATTENED.fullmatch(name)
    if match and match[2] in _FLAT_IN_BLOCK:
        return f"layers.{match[1]}.{_FLAT_IN_BLOCK[match[2]]}"
    return _FLAT_OUTER.get(name)
