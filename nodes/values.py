"""Values that a workflow brings, looked at again where they are used.

ComfyUI checks what is typed on a node, but not what a link brings: a list's value may be in no list, and a text may be
a number.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..trainer_core.errors import SettingsError


def as_text(value: Any, name: str) -> str:
    """`value`, which must be text. Raises `SettingsError` that names the input."""
    if not isinstance(value, str):
        raise SettingsError(f"{name} must be text, not {_shown(value)}. Type it on the node, or connect a text.")
    return value


def as_choice(value: Any, name: str, choices: Collection[str]) -> str:
    """`value`, which must be one of `choices`. Raises `SettingsError` that names the input and lists them."""
    if not isinstance(value, str) or value not in choices:
        raise SettingsError(f"{name} must be one of: {', '.join(choices)}; not {_shown(value)}. Choose one of them.")
    return value


def as_number(value: Any, name: str, low: float, high: float) -> float:
    """`value`, which must be a number from `low` to `high`. Raises `SettingsError` that names the input."""
    # Written so that NaN fails it: ComfyUI's own check of the limits lets it pass.
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise SettingsError(f"{name} must be a number from {low:g} to {high:g}, not {_shown(value)}. Change it.")
    return value


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool | type(None)) else f"a {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:100]}..."
