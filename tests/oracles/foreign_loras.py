"""LoRA files as other trainers write them: random values under hand-written keys, and the update each layer gets.

Nothing of the pack is used here, so that its reader is compared with something that it did not make itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

FUSED = {
    "comfy": ("diffusion_model.", "lora_A.weight", "lora_B.weight"),
    "fal": ("conditional_transformer.", "lora_A.weight", "lora_B.weight"),
    "kohya": ("lora_unet_", "lora_down.weight", "lora_up.weight"),
    "bare": ("", "lora_A.weight", "lora_B.weight"),
    "simpletuner": ("transformer.", "lora_A.weight", "lora_B.weight"),
    "diffsynth": ("", "lora_A.default.weight", "lora_B.default.weight"),
    "peft": ("base_model.model.", "lora_A.weight", "lora_B.weight"),
}
"""Layout to (prefix, suffix of A, suffix of B) where q, k and v are one layer."""


def fused_lora(
    layout: str,
    shapes: Mapping[str, tuple[int, int]],
    *,
    rank: int = 4,
    alpha: float | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(state dict in `layout`, fp64 update per layer). shapes: layer to (out, in). alpha None writes no alpha keys."""
    prefix, a_name, b_name = FUSED[layout]
    state_dict, deltas = {}, {}
    generator = torch.Generator().manual_seed(seed)
    for layer, (out, width) in shapes.items():
        base = prefix + (layer.replace(".", "_") if layout == "kohya" else layer)
        a, b = _random(rank, width, generator, dtype), _random(out, rank, generator, dtype)
        state_dict[f"{base}.{a_name}"], state_dict[f"{base}.{b_name}"] = a, b
        if alpha is not None:
            state_dict[f"{base}.alpha"] = torch.tensor(alpha)
        deltas[layer] = update(a, b, alpha)
    return state_dict, deltas


def split_lora(
    shapes: Mapping[str, tuple[int, int]],
    *,
    prefix: str = "transformer.",
    ranks: tuple[int, int, int] = (4, 4, 4),
    alphas: tuple[float | None, float | None, float | None] = (None, None, None),
    shared: bool = False,
    parts: str = "qkv",
    seed: int = 0,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The same in diffusers' names, with q, k and v apart: `shared` gives them one A, `parts` says which exist.

    ranks and alphas: of q, k and v; other layers take q's.
    """
    state_dict, deltas = {}, {}
    generator = torch.Generator().manual_seed(seed)

    def add(name: str, out: int, width: int, part: int, a: Tensor | None = None) -> Tensor:
        a = _random(ranks[part], width, generator) if a is None else a
        b = _random(out, ranks[part], generator)
        state_dict[f"{prefix}{name}.lora_A.weight"], state_dict[f"{prefix}{name}.lora_B.weight"] = a.clone(), b
        if alphas[part] is not None:
            state_dict[f"{prefix}{name}.alpha"] = torch.tensor(alphas[part])
        return update(a, b, alphas[part])

    for layer, (out, width) in shapes.items():
        if layer.endswith(".qkv"):
            one_a = _random(ranks[0], width, generator) if shared else None
            rows = torch.zeros(3, out // 3, width, dtype=torch.float64)
            for part, letter in enumerate("qkv"):
                if letter in parts:
                    rows[part] = add(layer.replace(".qkv", f".to_{letter}"), out // 3, width, part, one_a)
            deltas[layer] = rows.reshape(out, width)
        else:
            deltas[layer] = add(layer.replace(".attention.o", ".attention.to_out.0"), out, width, 0)
    return state_dict, deltas


def update(a: Tensor, b: Tensor, alpha: float | None) -> Tensor:
    """alpha/rank * B A in fp64; None means alpha = rank."""
    return (b.double() @ a.double()) * (1.0 if alpha is None else alpha / a.shape[0])


def _random(rows: int, columns: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(rows, columns, generator=generator).to(dtype)
