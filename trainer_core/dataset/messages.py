"""Lists of names in sentences."""

from __future__ import annotations

from collections.abc import Sequence

MAX_NAMED = 20
"""Beyond this many a message gives the first ones and the count."""


def name_some(names: Sequence[str], *, limit: int = MAX_NAMED) -> str:
    """All names, or the first `limit` and how many more there are."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more ({len(names)} in all)"
