"""loss.csv and loss.png of a run, for those who were not watching: made anew from its journal whenever asked for."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

from ..pictures import LossCurves, Validation, draw_loss
from ..storage import replace_file
from .journal import read_journal

LOSS_TABLE, LOSS_PICTURE = "loss.csv", "loss.png"
_OF_STEP = ("loss", "smoothed_loss", "learning_rate", "grad_norm", "seconds_per_step")
COLUMNS = ("step", *_OF_STEP, "validation_loss", "validation_train_loss", "checkpoint")


def write_loss_files(run_folder: Path) -> None:
    """Write both files into a run's folder, each whole or not at all, in place of those that were there.

    Raises `SaveFailed`; then the file that could not be written is as it was.
    """
    events = read_journal(run_folder)
    replace_file(run_folder / LOSS_TABLE, [loss_table(events).encode("utf-8", "replace")])
    picture = io.BytesIO()
    draw_loss(loss_curves(events), run_folder.name).save(picture, "PNG")
    replace_file(run_folder / LOSS_PICTURE, [picture.getvalue()])


def loss_table(events: list[dict[str, Any]]) -> str:
    """CSV with one row for each step that something is known about; what is not known is empty.

    A loss is empty where it was not finite and the update was skipped.
    """
    rows: dict[int, dict[str, Any]] = {}
    for event in events:
        row: dict[str, Any] = {}
        if event["event"] == "step":
            row = {name: _number(event.get(name)) for name in _OF_STEP}
        elif event["event"] == "validation":
            row = {"validation_loss": _number(event.get("loss"))}
            row["validation_train_loss"] = _number(event.get("train_loss"))
        elif event["event"] == "checkpoint":
            row = {"checkpoint": event.get("name")}
        if row:
            rows.setdefault(event["step"], {"step": event["step"]}).update(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[step] for step in sorted(rows))
    return text.getvalue()


def loss_curves(events: list[dict[str, Any]]) -> LossCurves:
    """What the picture shows. A skipped step keeps the smoothed loss that was there before it, and has no loss."""
    steps = [event for event in events if event["event"] == "step"]
    validations = {
        event["step"]: Validation(event["step"], loss, _number(event.get("train_loss")), event.get("best") is True)
        for event in events
        if event["event"] == "validation" and (loss := _number(event.get("loss"))) is not None
    }
    return LossCurves(
        steps=[event["step"] for event in steps],
        loss=[_number(event.get("loss")) for event in steps],
        smoothed=[_number(event.get("smoothed_loss")) for event in steps],
        validations=list(validations.values()),
        checkpoints=sorted({event["step"] for event in events if event["event"] == "checkpoint"}),
    )


def _number(value: object) -> float | None:
    """A finite number, or None for whatever else a journal may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond every float
        return None
