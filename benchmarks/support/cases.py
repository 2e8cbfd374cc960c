"""What is measured: the setup that all cases share, and one case of it."""

from __future__ import annotations

import dataclasses
from typing import Any

FORMATS = ("fp32", "bf16", "fp8_scaled", "nvfp4", "int8_convrot")
OPTIONS = {
    "kept": "all activations kept",  # no gradient checkpointing
    "recomputed": "all blocks recomputed",  # ours: also where memory would allow more
    "compiled": "compiled",  # ours: compile_blocks
    "quantized": "quantised products",  # ours: quantized_products
    "native_dtype": "its own dtype",  # ComfyUI's node: training_dtype none, which multiplies in fp8 where it can
    "dynamic": "dynamic VRAM",  # as ComfyUI runs by default on an NVIDIA card
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """What all cases of a session have in common."""

    device: str
    blocks: int
    width: str
    """`real` (4608) or `tiny` (256)."""
    size: int
    """Pixels of each side."""
    rank: int
    text_tokens: int
    steps: int
    warmup: int
    """Steps whose time does not count. The time of a step begins where the one before has ended."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One row of a table."""

    contender: str
    """A key of `worker.CONTENDERS`."""
    fmt: str = "bf16"
    mode: str = ""
    """Memory mode, for ours."""
    options: tuple[str, ...] = ()
    """Keys of `OPTIONS`."""
    limit_gib: float = 0.0
    """Let the device have only so much memory; 0: all of it."""

    @property
    def label(self) -> str:
        """`ours, fp8_scaled, streamed, 12 GiB card`."""
        parts = [self.contender, self.fmt, self.mode, *(OPTIONS[name] for name in self.options)]
        if self.limit_gib:
            parts.append(f"{self.limit_gib:g} GiB card")
        return ", ".join(part for part in parts if part)


def setup_from_json(values: dict[str, Any]) -> Setup:
    return Setup(**values)


def case_from_json(values: dict[str, Any]) -> Case:
    return Case(**{**values, "options": tuple(values["options"])})
