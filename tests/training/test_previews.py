"""Previews: the pictures that the saved LoRA makes, without a trace in the training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runner as runner_module
import torch
from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.errors import WrongModel, WrongTextEncoder, WrongVae
from ideogram4_lora_trainer.trainer_core.lora_files import read_lora, save_lora
from ideogram4_lora_trainer.trainer_core.model import host, sampling
from ideogram4_lora_trainer.trainer_core.training import previews as previews_module
from ideogram4_lora_trainer.trainer_core.training.previews import PreviewSettings, preview_file
from ideogram4_lora_trainer.trainer_core.training.requests import ask
from networks import snapshot, unchanged
from PIL import Image

SETTINGS = TrainSettings(steps=4, rank=2, learning_rate=1e-2, warmup_steps=0)
PROMPTS = ("a red circle", '{"compositional_deconstruction":{"background":"blue","elements":[]}}')


@pytest.fixture
def pictures(tiny_model: Callable[..., Any], tiny_clip: Any, tiny_vae: Any) -> Callable[..., Any]:
    def make(*, every: int = 2, guided: bool = True, **changes: Any) -> PreviewSettings:
        with torch.inference_mode():
            conditionings = tuple(sampling.encode_prompt(tiny_clip, prompt) for prompt in PROMPTS)
            values = {
                "prompts": PROMPTS,
                "conditionings": conditionings,
                "vae": tiny_vae,
                "unconditional": tiny_model("bf16", unconditional=True) if guided else None,
                "width": 64,
                "height": 96,
                "preset": "turbo",
                "seed": 3,
            }
            return PreviewSettings(pictures=sampling.PictureSettings(**{**values, **changes}), every=every)

    return make


class Runner(runner_module.Runner):
    def train(self, settings: TrainSettings = SETTINGS, **options: Any) -> Any:
        return super().train(settings, **options)

    def picture(self, step: int, prompt: int) -> np.ndarray:
        return np.asarray(Image.open(self.run / preview_file(step, prompt)))


@pytest.fixture(params=["bf16", "fp8_scaled"])
def runner(request: pytest.FixtureRequest, tiny_model: Callable[..., Any], tmp_path: Path) -> Runner:
    return Runner(tiny_model(request.param), tmp_path)


def test_each_round_is_in_the_journal_and_on_disk_and_training_does_not_notice(
    runner: Runner, pictures: Callable[..., Any], tmp_path: Path
) -> None:
    before = snapshot(runner.patcher)
    watched = runner.train(previews=pictures())
    assert unchanged(before, snapshot(runner.patcher))
    (about,) = runner.journal("previews")
    assert (about["prompts"], about["guided"], about["every"]) == (list(PROMPTS), True, 2)
    assert [(e["step"], e["prompt"]) for e in runner.journal("preview")] == [(s, p) for s in (0, 2, 4) for p in (0, 1)]
    assert runner.picture(4, 1).shape == (96, 64, 3)
    assert not np.array_equal(runner.picture(0, 0), runner.picture(4, 0)), "what is learnt shows"
    assert not np.array_equal(runner.picture(4, 0), runner.picture(4, 1)), "each prompt has its own picture"

    unwatched = Runner(runner.patcher, tmp_path / "without previews").train()
    assert watched.losses == unwatched.losses
    for path, weights in unwatched.modules.items():
        assert torch.equal(weights.up, watched.modules[path].up)
        assert torch.equal(weights.down, watched.modules[path].down)


def test_the_model_is_not_loaded_again_after_the_last_round(
    runner: Runner, pictures: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing left to train with it, and no room for it would end a run that is done."""
    steps: list[int] = []
    loads: list[int] = []
    load = host.load_on_device

    def counted(patcher: Any, memory_bytes: int) -> None:
        loads.append(len(steps))
        load(patcher, memory_bytes)

    monkeypatch.setattr(host, "load_on_device", counted)
    runner.train(previews=pictures(), on_step=lambda report: steps.append(report.step))
    assert {e["step"] for e in runner.journal("preview")} == {0, 2, 4}
    assert loads == [0, 0, 2], "to begin with, and after the first two rounds"


def test_a_preview_is_what_the_saved_lora_makes(runner: Runner, pictures: Callable[..., Any], tmp_path: Path) -> None:
    settings = pictures()
    trained = runner.train(previews=settings)
    path = save_lora(trained.modules, folder=tmp_path / "loras", stem="saved", layout="comfy", metadata={})
    with torch.inference_mode():
        for prompt in range(len(PROMPTS)):
            made = sampling.sample_picture(
                runner.patcher, settings.pictures, prompt, modules=read_lora(path).modules, bypass=True
            )
            assert np.array_equal(made, runner.picture(4, prompt))
            base = sampling.sample_picture(runner.patcher, settings.pictures, prompt)
            assert np.array_equal(base, runner.picture(0, prompt))


def test_without_guidance_the_picture_says_so(runner: Runner, pictures: Callable[..., Any]) -> None:
    runner.train(previews=pictures(guided=False))
    assert runner.journal("previews")[0]["guided"] is False
    height, width, _ = runner.picture(0, 0).shape
    assert width == 64 and height > 96, "a strip of words below the picture"


def test_a_failing_preview_is_told_and_costs_nothing(
    runner: Runner, pictures: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []

    def fail(*_: Any, **__: Any) -> np.ndarray:
        calls.append(1)
        raise torch.OutOfMemoryError("no room") if len(calls) == 1 else ValueError("a stranger's node broke this")

    expected = Runner(runner.patcher, tmp_path / "undisturbed").train()
    monkeypatch.setattr(previews_module, "sample_picture", fail)
    trained = runner.train(previews=pictures(every=1))
    assert trained.losses == expected.losses
    assert len(calls) == 2, "switched off after the second failure in a row"
    told = [note for note in runner.notes if "previews" in note]
    assert "64x96 does not fit" in told[0] and "Training goes on." in told[0]
    assert "ValueError: a stranger's node broke this." in told[1] and "without any more of them" in told[1]


def test_cancelling_within_a_preview_saves_the_run(
    runner: Runner, pictures: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import comfy.model_management

    original = previews_module.sample_picture

    def cancelled(*args: Any, **options: Any) -> np.ndarray:
        if runner.journal("step"):
            raise comfy.model_management.InterruptProcessingException
        return original(*args, **options)

    before = snapshot(runner.patcher)
    expected = Runner(runner.patcher, tmp_path / "undisturbed").train()
    monkeypatch.setattr(previews_module, "sample_picture", cancelled)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        runner.train(previews=pictures())
    assert unchanged(before, snapshot(runner.patcher))
    assert runner.journal("stopped")[-1]["step"] == 2
    resumed = runner.train(place={"resume": runner.run.name})
    assert resumed.losses == expected.losses


def test_previews_come_when_asked_for_and_the_user_is_told_when_there_are_none(
    runner: Runner, pictures: Callable[..., Any], tmp_path: Path
) -> None:
    def ask_at_three(report: Any) -> None:
        if report.step == 2:
            ask(runner.run, "preview")

    runner.train(previews=pictures(every=0), on_step=ask_at_three)
    assert {e["step"] for e in runner.journal("preview")} == {3}

    other = runner = Runner(runner.patcher, tmp_path / "without")
    other.train(on_step=ask_at_three)
    assert any("connect Ideogram 4 Previews" in note for note in other.notes)


def test_parts_that_cannot_make_pictures_are_refused_before_training(
    runner: Runner, pictures: Callable[..., Any], tiny_vae: Any
) -> None:
    class NoVae:
        first_stage_model = torch.nn.Linear(1, 1)

    with pytest.raises(WrongVae):
        runner.train(previews=pictures(vae=NoVae()))
    with pytest.raises(WrongTextEncoder, match="width 7"):
        runner.train(previews=pictures(conditionings=([[torch.zeros(1, 3, 7), {}]], [[torch.zeros(1, 3, 7), {}]])))
    with pytest.raises(WrongModel):
        runner.train(previews=pictures(unconditional=tiny_vae.patcher))
    assert not (runner.folder / "runs").exists() or not list((runner.folder / "runs").iterdir())
    assert host.is_interrupt(Exception()) is False
