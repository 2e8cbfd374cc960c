"""How lists of names read in a message."""

from __future__ import annotations

from collections.abc import Iterable


def some_of(names: Iterable[str], limit: int = 10) -> str:
    """The first `limit` names separated by commas, and how many more there are."""
    listed = list(names)
    text = ", ".join(listed[:limit])
    return text if len(listed) <= limit else f"{text} and {len(listed) - limit} more"
