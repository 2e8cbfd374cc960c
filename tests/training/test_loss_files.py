"""loss.csv and loss.png: made from any journal, whole or not at all."""

from __future__ import annotations

import csv
import errno
import io
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ideogram4_lora_trainer.trainer_core.errors import SaveFailed
from ideogram4_lora_trainer.trainer_core.pictures import LossCurves, Validation, draw_loss
from ideogram4_lora_trainer.trainer_core.pictures.loss_plot import ticks
from ideogram4_lora_trainer.trainer_core.training.journal import JOURNAL, Journal
from ideogram4_lora_trainer.trainer_core.training.loss_files import COLUMNS, write_loss_files
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def write_steps(folder: Path, losses: list[float | None]) -> Journal:
    journal = Journal(folder)
    for step, loss in enumerate(losses, 1):
        journal.write(
            "step", step=step, loss=math.nan if loss is None else loss, smoothed_loss=loss, learning_rate=1e-4,
            grad_norm=0.5, skipped=loss is None, seconds_per_step=1.5,
        )  # fmt: skip
    return journal


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "loss.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert tuple(reader.fieldnames or ()) == COLUMNS
    return rows


def picture(folder: Path) -> Image.Image:
    with Image.open(folder / "loss.png") as image:
        image.load()
    assert image.size == (1280, 720)
    return image


@pytest.mark.parametrize(
    "losses",
    [[], [0.5], [0.5] * 20, [None, 0.5, None, 0.4], [None] * 3, [1e-9, 1e30, 0.0], [0.1 + 0.2, -1.0], [1.0] * 40_000],
    ids=["0", "1", "constant", "skipped", "all skipped", "extreme", "negative", "40000"],
)
def test_every_length_and_shape_of_history(tmp_path: Path, losses: list[float | None]) -> None:
    write_steps(tmp_path, losses)
    write_loss_files(tmp_path)
    rows = table(tmp_path)
    assert [float(row["loss"]) if row["loss"] else None for row in rows] == losses, "to the last digit"
    assert [int(row["step"]) for row in rows] == list(range(1, len(losses) + 1))
    assert len(picture(tmp_path).getcolors(2**24)) > 2


def test_validation_and_checkpoints_stand_beside_their_steps(tmp_path: Path) -> None:
    journal = write_steps(tmp_path, [0.5, 0.4])
    journal.write("validation", step=0, loss=0.9, train_loss=0.8)
    journal.write("validation", step=2, loss=0.7, train_loss=math.inf)
    journal.write("checkpoint", step=2, name="step_000002")
    write_loss_files(tmp_path)
    before, first, second = table(tmp_path)
    assert (before["step"], before["loss"], before["validation_loss"]) == ("0", "", "0.9")
    assert (first["validation_loss"], first["checkpoint"]) == ("", "")
    assert (second["validation_loss"], second["validation_train_loss"]) == ("0.7", "")
    assert (second["loss"], second["checkpoint"]) == ("0.4", "step_000002")


def test_what_is_there_is_seen() -> None:
    """Each part of the picture changes it."""
    steps, loss = [1, 2, 3, 4], [0.5, 0.45, 0.55, 0.4]
    plain = LossCurves(steps=steps, loss=loss)
    validations = [Validation(1, 0.5, best=True), Validation(3, 0.45, best=True), Validation(4, 0.48)]
    others = [
        LossCurves(steps=steps, loss=loss, smoothed=[0.5] * 4),
        LossCurves(steps=steps, loss=loss, validations=validations),
        LossCurves(steps=steps, loss=loss, validations=[Validation(v.step, v.loss, 0.47, v.best) for v in validations]),
        LossCurves(steps=steps, loss=loss, checkpoints=[2]),
        LossCurves(steps=steps, loss=[0.5, None, 0.55, 0.4]),
    ]
    seen = {draw_loss(curves, "run").tobytes() for curves in [plain, *others]}
    assert len(seen) == 6
    assert draw_loss(plain, "another").tobytes() not in seen
    assert LossCurves(validations=validations).best == validations[1]


def test_one_high_loss_does_not_flatten_the_others() -> None:
    steps, loss = list(range(1, 201)), [0.4 + 0.2 * math.sin(step) for step in range(200)]
    calm, spiked = (draw_loss(LossCurves(steps=steps, loss=values), "run") for values in (loss, [*loss[:-1], 1e6]))
    rows = [
        max(y for y in range(130, 630, 4) if any(image.getpixel((x, y)) != (255, 255, 255) for x in range(300, 310)))
        for image in (calm, spiked)
    ]
    assert abs(rows[0] - rows[1]) < 40


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.31, 0.34), (0, 40_000), (-3, 5), (1e-9, 2e-9), (1e20, 3e20)])
def test_axes_have_a_handful_of_round_numbers_inside(low: float, high: float) -> None:
    found = ticks(low, high, 6)
    assert 3 <= len(found) <= 13
    assert all(low - (high - low) * 1e-6 <= tick <= high + (high - low) * 1e-6 for tick in found)
    assert found == sorted(set(found))
    assert ticks(1.0, 1.0, 6) == [1.0]


def test_a_damaged_journal_costs_what_is_damaged(tmp_path: Path) -> None:
    write_steps(tmp_path, [0.5])
    strange = ['{"event":"step","step":2,"loss":"high","smoothed_loss":true}', '{"event":"step","step":3}']
    strange += ['{"event":"validation","step":3}', '{"event":"checkpoint","step":3}', '{"event":"step","st']
    strange += ['{"event":"step","step":4,"loss":1' + "0" * 400 + "}"]
    with (tmp_path / JOURNAL).open("a", encoding="utf-8") as file:
        file.write("\n".join(strange))
    write_loss_files(tmp_path)
    assert [row["loss"] for row in table(tmp_path)] == ["0.5", "", "", ""]
    picture(tmp_path)


def test_files_are_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    journal = write_steps(tmp_path, [0.5])
    write_loss_files(tmp_path)
    journal.write("step", step=2, loss=0.4)
    write_loss_files(tmp_path)
    assert len(table(tmp_path)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal.jsonl", "loss.csv", "loss.png"]


@pytest.mark.parametrize("fails", ["write", "replace"])
def test_a_disk_that_refuses_leaves_the_files_that_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    journal = write_steps(tmp_path, [0.5])
    write_loss_files(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != JOURNAL}
    journal.write("step", step=2, loss=0.4)

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, {"write": "fsync", "replace": "replace"}[fails], refuse)
    with pytest.raises(SaveFailed):
        write_loss_files(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != JOURNAL} == before


def test_neither_torch_nor_the_model_is_needed(tmp_path: Path) -> None:
    """So a run can be looked at where nothing can be trained."""
    write_steps(tmp_path, [0.5, 0.4])
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from trainer_core.training.loss_files import write_loss_files\n"
        "write_loss_files(Path(sys.argv[2]))\n"
        "assert not {'torch', 'comfy', 'trainer_core.model'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, ROOT, tmp_path], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert picture(tmp_path)
    assert io.StringIO((tmp_path / "loss.csv").read_text()).readline().startswith("step,loss")
