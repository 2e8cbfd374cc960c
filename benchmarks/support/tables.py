"""Results as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Results = Mapping[str, Mapping[str, Any]]
Column = tuple[str, str]
"""Heading, and the figure under it."""

HOST_COLUMNS: Sequence[Column] = (
    ("peak GiB", "host_peak_gib"),
    ("with setting up", "host_whole_peak_gib"),
    ("when loaded", "host_before_gib"),
)
GPU_COLUMNS: Sequence[Column] = (
    ("GPU GiB", "allocated_gib"),
    ("reserved", "reserved_gib"),
    ("predicted", "predicted_gib"),
    ("host GiB", "host_whole_peak_gib"),
)


def table(results: Results, reference: str, columns: Sequence[Column]) -> str:
    """A row for each case: seconds per step, the columns, and time and first column against those of `reference`."""
    headings = ["", "s/step", *(heading for heading, _ in columns), "time ratio", "memory ratio"]
    rows = [headings, ["---"] * len(headings)]
    base = results.get(reference, {})
    for label, figures in results.items():
        if "check" in figures:
            continue
        if "seconds" not in figures:
            rows.append([label, figures.get("error", "not run"), *[""] * (len(headings) - 2)])
            continue
        memory = columns[0][1]
        row = [label, _shown(figures["seconds"], 3), *(_shown(figures.get(key), 2) for _, key in columns)]
        row += [_ratio(figures, base, "seconds"), _ratio(figures, base, memory)]
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def predictions(results: Results) -> str:
    """Predicted and measured peak of what a run allocated beside the weights that were there before it."""
    rows = ["| | predicted GiB | measured GiB | measured / predicted |", "|---|---|---|---|"]
    for label, figures in results.items():
        predicted, measured = figures.get("predicted_allocated_gib"), figures.get("measured_allocated_gib")
        if predicted and measured:
            rows.append(f"| {label} | {predicted:.2f} | {measured:.2f} | {measured / predicted:.2f} |")
    return "\n".join(rows)


def checks(results: Results) -> str:
    """What was compared or measured apart from steps."""
    rows = ["| | | |", "|---|---|---|"]
    for label, figures in results.items():
        for name, value in figures.get("check", {}).items():
            rows.append(f"| {label} | {name} | {value if isinstance(value, bool) else f'{value:.3g}'} |")
    return "\n".join(rows)


def _ratio(figures: Mapping[str, Any], base: Mapping[str, Any], key: str) -> str:
    return _shown(figures[key] / base[key], 2) if figures.get(key) and base.get(key) else ""


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
