"""Save now, stop and keep: taken between two steps, from whoever can see the run's folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.errors import SaveFailed
from ideogram4_lora_trainer.trainer_core.training.checkpoints import list_checkpoints
from ideogram4_lora_trainer.trainer_core.training.journal import read_journal
from ideogram4_lora_trainer.trainer_core.training.loop import train
from ideogram4_lora_trainer.trainer_core.training.requests import REQUESTS, ask, take
from networks import place_under, training_data

SETTINGS = TrainSettings(steps=8, rank=2, learning_rate=1e-3)


@pytest.fixture
def run(tiny_model: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Train; `asking` maps a step to what is asked for right after it."""
    patcher = tiny_model("bf16")
    data = training_data(tmp_path / "encodings", patcher)

    def start(
        asking: dict[int, str],
        settings: TrainSettings = SETTINGS,
        *,
        before: Mapping[int, Callable[[Path], None]] = {},
        **place: Any,
    ) -> tuple[Any, list[str], Path]:
        notes: list[str] = []

        def on_step(report: Any) -> None:
            if report.step in before:
                before[report.step](newest())
            if report.step in asking:
                ask(newest(), asking[report.step])

        def newest() -> Path:
            return max((tmp_path / "runs").iterdir(), key=lambda path: path.name)

        with torch.inference_mode():
            trained = train(
                patcher, data, settings, place_under(tmp_path, **place), on_step=on_step, on_note=notes.append
            )
        return trained, notes, newest()

    return start


def test_a_request_is_taken_once(tmp_path: Path) -> None:
    for what in REQUESTS:
        ask(tmp_path, what)
    ask(tmp_path, "save")
    assert take(tmp_path) == set(REQUESTS)
    assert take(tmp_path) == set()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="none of"):
        ask(tmp_path, "../save")
    with pytest.raises(SaveFailed, match="cannot be asked to save"):
        ask(tmp_path / "gone", "save")
    assert take(tmp_path / "gone") == set()


def test_save_now_writes_a_checkpoint_and_changes_nothing(run: Callable[..., Any]) -> None:
    plain, _, _ = run({})
    asked, _, folder = run({3: "save"})
    assert asked.losses == plain.losses
    steps = [event["step"] for event in read_journal(folder) if event["event"] == "checkpoint"]
    assert steps == [4, 8]


def test_stop_and_keep_ends_well_and_the_run_goes_on_to_the_same_lora(run: Callable[..., Any]) -> None:
    whole, _, _ = run({})
    kept, notes, folder = run({4: "stop"})
    assert len(kept.losses) == 5
    assert kept.losses == whole.losses[:5]
    assert kept.record.trained_steps == 5
    assert notes[-1].startswith("Stopped at step 5 of 8, as asked; this is its LoRA.")
    assert f"choose {folder.name} under resume" in notes[-1]
    last = read_journal(folder)[-2]
    assert (last["event"], last["reason"], last["step"]) == ("stopped", "kept", 5)
    assert list_checkpoints(folder)[0].name == "step_000005"

    resumed, _, _ = run({}, resume=folder.name)
    assert resumed.losses == whole.losses
    assert all(torch.equal(resumed.modules[path].up, whole.modules[path].up) for path in whole.modules)


def test_stop_and_keep_after_the_last_step_is_the_end(run: Callable[..., Any]) -> None:
    _, _, folder = run({7: "stop"})
    assert read_journal(folder)[-1]["event"] == "finished"


def test_what_was_asked_for_before_a_run_begins_is_forgotten(run: Callable[..., Any]) -> None:
    _, _, folder = run({4: "stop"})
    ask(folder, "stop")
    resumed, _, _ = run({}, resume=folder.name)
    assert len(resumed.losses) == SETTINGS.steps


def test_stop_in_the_middle_of_accumulation_waits_for_the_step(run: Callable[..., Any]) -> None:
    kept, _, _ = run({2: "stop"}, dataclasses.replace(SETTINGS, gradient_accumulation=3))
    assert len(kept.losses) == 3


def test_what_became_of_a_request_is_in_the_journal(run: Callable[..., Any]) -> None:
    _, notes, folder = run({2: "save", 4: "preview"})
    answers = [
        (event["step"], event["request"], event["done"])
        for event in read_journal(folder)
        if event["event"] == "answered"
    ]
    assert answers == [(3, "save", True), (5, "preview", False)]
    assert any("connect Ideogram 4 Previews" in note for note in notes)


def test_a_request_made_while_the_run_is_loaded_counts(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ideogram4_lora_trainer.trainer_core.training import loop

    _, _, folder = run({3: "stop"})
    check = loop.self_check

    def checked(*arguments: Any) -> Any:
        ask(folder, "stop")
        return check(*arguments)

    monkeypatch.setattr(loop, "self_check", checked)
    kept, _, _ = run({}, resume=folder.name)
    assert len(kept.losses) == 5, "the step that it was at"


def test_a_loss_picture_that_cannot_be_drawn_ends_nothing(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ideogram4_lora_trainer.trainer_core.training import loss_files

    def fail(*_: Any) -> Any:
        raise TypeError("an older Pillow")

    monkeypatch.setattr(loss_files, "draw_loss", fail)
    trained, _, folder = run({2: "save"})
    assert len(trained.losses) == SETTINGS.steps
    assert read_journal(folder)[-1]["event"] == "finished"


def test_a_folder_that_was_deleted_is_written_anew_with_all_that_was_done(run: Callable[..., Any]) -> None:
    import shutil

    def emptied(folder: Path) -> None:
        shutil.rmtree(folder)
        (folder / "previews").mkdir(parents=True)  # as somebody might who looks at it

    plain, _, _ = run({})
    trained, notes, folder = run({3: "save"}, before={2: emptied})
    assert any("is written anew" in note for note in notes)
    assert [event["step"] for event in read_journal(folder) if event["event"] == "step"] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert trained.losses == plain.losses


def test_how_often_a_run_was_kept_can_be_counted(run: Callable[..., Any]) -> None:
    from ideogram4_lora_trainer.trainer_core.training.journal import times_kept

    _, _, folder = run({1: "stop"})
    assert times_kept(folder) == 1
    run({4: "stop"}, resume=folder.name)
    assert times_kept(folder) == 2
    run({}, resume=folder.name)
    assert times_kept(folder) == 2
    assert times_kept(folder / "gone") == 0
