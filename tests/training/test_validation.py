"""Images held out: never trained on, measured at the same noise each time, and the best checkpoint stays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runner as runner_module
import torch
from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.errors import SettingsError
from ideogram4_lora_trainer.trainer_core.training import validation as validation_module
from ideogram4_lora_trainer.trainer_core.training.best import Best
from ideogram4_lora_trainer.trainer_core.training.checkpoints import list_checkpoints
from ideogram4_lora_trainer.trainer_core.training.plan import held_out_items, plan_step, trained_items
from ideogram4_lora_trainer.trainer_core.training.validation import ValidationReport
from networks import training_data

SETTINGS = TrainSettings(steps=12, rank=2, learning_rate=3e-3, warmup_steps=0, validation_images=2, validation_every=4)
COUNT = 6


class Runner(runner_module.Runner):
    def __init__(self, patcher: Any, folder: Path) -> None:
        super().__init__(patcher, folder, count=COUNT)

    def train(self, settings: TrainSettings = SETTINGS, **options: Any) -> Any:
        return super().train(settings, **options)

    def measurements(self) -> list[dict[str, Any]]:
        return [{key: value for key, value in event.items() if key != "time"} for event in self.journal("validation")]


@pytest.fixture
def patcher(tiny_model: Callable[..., Any]) -> Any:
    return tiny_model("bf16")


@pytest.fixture
def runner(patcher: Any, tmp_path: Path) -> Runner:
    return Runner(patcher, tmp_path)


def test_images_held_out_are_never_trained_on_and_all_others_are() -> None:
    held_out, trained = held_out_items(SETTINGS, COUNT), trained_items(SETTINGS, COUNT)
    assert len(held_out) == 2
    assert sorted(held_out + trained) == list(range(COUNT))
    seen = {item for step in range(8) for micro in plan_step(SETTINGS, step, COUNT, 64, 64) for item in micro.items}
    assert seen == set(trained)
    assert (
        held_out_items(dataclasses.replace(SETTINGS, seed=1), COUNT) != held_out
        or held_out_items(dataclasses.replace(SETTINGS, seed=2), COUNT) != held_out
    )


def test_without_images_held_out_the_plan_is_what_it_was() -> None:
    none = dataclasses.replace(SETTINGS, validation_images=0)
    assert held_out_items(none, COUNT) == ()
    assert trained_items(none, COUNT) == tuple(range(COUNT))


def test_holding_out_everything_is_refused_before_training(runner: Runner) -> None:
    with pytest.raises(SettingsError, match="validation_images is 6, of 6 in all"):
        runner.train(dataclasses.replace(SETTINGS, validation_images=COUNT))
    assert not (runner.folder / "runs").exists() or not list((runner.folder / "runs").iterdir())


def test_measured_at_the_beginning_every_so_often_and_at_the_end(runner: Runner) -> None:
    runner.train(dataclasses.replace(SETTINGS, steps=10))
    measured = runner.measurements()
    assert [event["step"] for event in measured] == [0, 4, 8, 10]
    for event in measured:
        assert len(event["losses"]) == len(event["sigmas"]) == 5
        assert event["sigmas"] == sorted(event["sigmas"])
        assert event["loss"] == pytest.approx(sum(event["losses"]) / 5)
        assert event["images"] == 2
    losses = [event["loss"] for event in measured]
    assert [event["best"] for event in measured] == [
        loss < min(losses[:i], default=9e9) for i, loss in enumerate(losses)
    ]
    assert measured[-1]["train_loss"] < measured[0]["train_loss"], "images that are trained on are learnt"


def test_measuring_changes_nothing_and_is_the_same_each_time(runner: Runner, patcher: Any, tmp_path: Path) -> None:
    often = Runner(patcher, tmp_path / "often").train(dataclasses.replace(SETTINGS, validation_every=1))
    seldom = runner.train(SETTINGS)
    again = Runner(patcher, tmp_path / "again")
    repeated = again.train(SETTINGS)
    assert often.losses == seldom.losses == repeated.losses
    assert all(torch.equal(often.modules[path].up, seldom.modules[path].up) for path in seldom.modules)
    assert runner.measurements() == again.measurements()


def test_a_resumed_run_measures_what_the_uninterrupted_one_does(runner: Runner, patcher: Any, tmp_path: Path) -> None:
    whole = Runner(patcher, tmp_path / "whole")
    whole.train(SETTINGS)

    class Cancelled(BaseException):
        pass

    def cancel(report: Any) -> None:
        if report.step == 6:
            raise Cancelled

    with pytest.raises(Cancelled):
        runner.train(SETTINGS, on_step=cancel)
    runner.train(SETTINGS, place={"resume": runner.run.name})
    assert runner.measurements() == whole.measurements()


def test_the_best_checkpoint_stays_and_its_lora_is_saved(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = iter([1.0, 0.5, 0.7, 0.8])  # steps 0, 4, 8, 12: overfitting as in a textbook
    measure = validation_module.Validation.measure

    def measured(self: Any, *arguments: Any) -> ValidationReport:
        return dataclasses.replace(measure(self, *arguments), loss=next(scripted))

    monkeypatch.setattr(validation_module.Validation, "measure", measured)
    runner.train(dataclasses.replace(SETTINGS, checkpoint_every=2, keep_checkpoints=1))
    assert [path.name for path in list_checkpoints(runner.run)] == ["step_000012", "step_000004"]
    assert [event["best"] for event in runner.measurements()] == [True, True, False, False]
    lora = f"{runner.run.name}_step_000004.safetensors"
    assert f"step 4 did best. Its LoRA is {lora}" in runner.notes[-1]
    assert (runner.folder / "loras" / lora).is_file()
    best = Best.of_journal(runner.run, 12)
    assert (best.step, best.loss, best.checkpoint) == (4, 0.5, runner.run / "step_000004")
    assert Best.of_journal(runner.run, 3).step == 0


def test_no_better_than_the_base_model_is_said(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = iter([0.4, 0.5, 0.6, 0.7])
    measure = validation_module.Validation.measure
    monkeypatch.setattr(
        validation_module.Validation,
        "measure",
        lambda *arguments: dataclasses.replace(measure(*arguments), loss=next(scripted)),
    )
    runner.train()
    assert "no measurement was better than the base model's" in runner.notes[-1]


def test_other_images_held_out_count_as_a_change_of_the_run(runner: Runner) -> None:
    from ideogram4_lora_trainer.trainer_core.errors import RunChanged

    runner.train()
    more = dataclasses.replace(SETTINGS, steps=14, validation_images=3)
    with pytest.raises(RunChanged, match="validation_images: 2 before, 3 now"):
        runner.train(more, place={"resume": runner.run.name})
    runner.train(dataclasses.replace(SETTINGS, steps=14, validation_every=7), place={"resume": runner.run.name})


def scripted_losses(monkeypatch: pytest.MonkeyPatch, *losses: float) -> None:
    remaining = iter(losses)
    measure = validation_module.Validation.measure
    monkeypatch.setattr(
        validation_module.Validation,
        "measure",
        lambda *arguments: dataclasses.replace(measure(*arguments), loss=next(remaining)),
    )


def test_a_measurement_that_is_not_finite_is_told_and_ends_nothing(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = validation_module.Validation.measure
    nan = float("nan")
    monkeypatch.setattr(
        validation_module.Validation,
        "measure",
        lambda *arguments: dataclasses.replace(measure(*arguments), loss=nan, losses=(nan, 1.0, float("inf"))),
    )
    trained = runner.train()
    assert len(trained.losses) == SETTINGS.steps
    assert [(event["loss"], event["losses"]) for event in runner.measurements()] == [(None, [None, 1.0, None])] * 4


def test_a_measurement_that_was_cancelled_is_made_on_resuming(
    runner: Runner, patcher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Runner(patcher, tmp_path / "whole")
    whole.train()

    class Cancelled(BaseException):
        pass

    def cancelled(self: Any, *arguments: Any) -> ValidationReport:
        if len(runner.measurements()) == 1:
            raise Cancelled
        return measure(self, *arguments)

    measure = validation_module.Validation.measure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation_module.Validation, "measure", cancelled)
        with pytest.raises(Cancelled):
            runner.train()
    runner.train(place={"resume": runner.run.name})
    assert runner.measurements() == whole.measurements()


def test_measurements_are_compared_only_where_they_can_be(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_losses(monkeypatch, 0.9, 0.1, 0.5, 0.6, 0.7)  # steps 0, 4; changed: 8; then 12, 16
    runner.train(dataclasses.replace(SETTINGS, steps=4))
    other = dataclasses.replace(SETTINGS, steps=8, learning_rate=1e-3)
    runner.train(other, place={"resume": runner.run.name, "continue_anyway": True})
    assert Best.of_journal(runner.run, 8).step == 8, "what was measured before the change does not count"
    runner.train(dataclasses.replace(other, steps=16), place={"resume": runner.run.name})
    assert [event["best"] for event in runner.measurements()] == [True, True, True, False, False]
    assert "step_000008" in [path.name for path in list_checkpoints(runner.run)]


def test_shares_of_several_processes_add_up_to_the_whole(patcher: Any, tmp_path: Path) -> None:
    from ideogram4_lora_trainer.trainer_core.model.network import open_network

    data = training_data(tmp_path, patcher, count=7)
    settings = dataclasses.replace(SETTINGS, validation_images=3)
    statistics = data.statistics("ideogram")
    with torch.inference_mode(), open_network(patcher) as network:
        whole = validation_module.Validation(data, settings, statistics).measure(network)
        shares: list[torch.Tensor] = []
        for rank in range(2):
            part = validation_module.Validation(data, settings, statistics, rank=rank, world=2)
            part.measure(network, lambda sums: shares.append(sums.clone()))
        together = validation_module.Validation(data, settings, statistics, rank=0, world=2).measure(
            network, lambda sums: sums.copy_(shares[0] + shares[1])
        )
    assert together.loss == pytest.approx(whole.loss, rel=1e-9)
    assert together.train_loss == pytest.approx(whole.train_loss, rel=1e-9)
