"""The `lora_adapter_metadata` header that diffusers and SimpleTuner write: alpha per layer, where the keys have none.

Layer patterns in it are read as plain names (PEFT runs them as regular expressions, which a stranger's file must not
choose here). Not covered: PEFT options that change the base weights when loading (PiSSA and the like).
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping

from ..errors import LoraUnreadable

HEADER_KEY = "lora_adapter_metadata"
_MAX_NUMBER = 1_000_000
_PLAIN_NAME = re.compile(r"[\w.]+")


@dataclasses.dataclass(frozen=True)
class AdapterHeader:
    """What the header says about rank and alpha."""

    rank: int
    alpha: float
    rank_pattern: Mapping[str, float]
    alpha_pattern: Mapping[str, float]
    rank_stabilized: bool

    def alpha_for(self, layer: str, rank: int, name: str) -> float:
        """alpha of `layer`, such that its scale is alpha / rank.

        Raises `LoraUnreadable` when the header gives the layer another rank than its tensors have.
        """
        stated = _lookup(self.rank_pattern, layer, self.rank)
        if stated != rank:
            raise LoraUnreadable(
                f"{name}: its {HEADER_KEY} header gives {layer} rank {stated:g}, its tensors have rank {rank}. "
                "The header belongs to another LoRA: save the file again without it."
            )
        alpha = _lookup(self.alpha_pattern, layer, self.alpha)
        return alpha * math.sqrt(rank) if self.rank_stabilized else alpha


def read_adapter_header(metadata: Mapping[str, str], name: str) -> AdapterHeader | None:
    """The header's contents for the transformer, or None where there are none.

    Raises `LoraUnreadable` if it is broken or describes a DoRA.
    """
    if HEADER_KEY not in metadata:
        return None
    try:
        everything = json.loads(metadata[HEADER_KEY])
        prefix = "transformer."
        values = {key.removeprefix(prefix): value for key, value in everything.items() if key.startswith(prefix)}
        if not values:
            return None
        header = AdapterHeader(
            rank=int(_number(values["r"])),
            alpha=_number(values["lora_alpha"]),
            rank_pattern=_pattern(values.get("rank_pattern")),
            alpha_pattern=_pattern(values.get("alpha_pattern")),
            rank_stabilized=bool(values.get("use_rslora")),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise LoraUnreadable(
            f"{name}: its {HEADER_KEY} header, which holds the LoRA's strength, cannot be understood ({error!r}). "
            "Save the LoRA again with the tool that made it."
        ) from error
    if values.get("use_dora"):
        raise LoraUnreadable(f"{name} is a DoRA ({HEADER_KEY} header). Only plain LoRA can be read here.")
    return header


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _MAX_NUMBER:
        raise ValueError(f"{value!r} is not a positive number")
    return float(value)


def _pattern(value: Mapping[str, object] | None) -> dict[str, float]:
    pattern = {key.removeprefix("^"): _number(number) for key, number in (value or {}).items()}
    for key in pattern:
        if not _PLAIN_NAME.fullmatch(key):
            raise ValueError(f"{key!r} is not a layer name")
    return pattern


def _lookup(pattern: Mapping[str, float], layer: str, default: float) -> float:
    """The first entry that names the layer or the end of its path, as in PEFT."""
    return next((value for key, value in pattern.items() if f".{layer}".endswith(f".{key}")), default)
