"""The training run as a whole, on a tiny model in this process."""

from __future__ import annotations

import dataclasses
import gc
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.errors import (
    DoesNotFit,
    NonFinite,
    SelfCheckFailed,
    TrainingDataMismatch,
    WrongModel,
)
from ideogram4_lora_trainer.trainer_core.model import host, network
from ideogram4_lora_trainer.trainer_core.training import loop
from ideogram4_lora_trainer.trainer_core.training.history import LossHistory
from ideogram4_lora_trainer.trainer_core.training.report import StepReport
from networks import place_under, snapshot, training_data, unchanged

SETTINGS = TrainSettings(steps=4, rank=4, learning_rate=1e-3, warmup_steps=0)


@pytest.fixture
def patcher(tiny_model: Callable[..., Any]) -> Any:
    return tiny_model("bf16")


@pytest.fixture
def run(patcher: Any, tmp_path: Path) -> Callable[..., Any]:
    """`run(settings, **data)` trains under inference mode, as a node does."""

    def train(settings: TrainSettings = SETTINGS, *, reports: list | None = None, **data: Any) -> Any:
        encoded = training_data(tmp_path / str(sorted(data.items())).replace("/", "_"), patcher, **data)
        with torch.inference_mode():
            return loop.train(
                patcher,
                encoded,
                settings,
                place_under(tmp_path),
                on_step=(reports if reports is not None else []).append,
            )

    return train


def same(a: Any, b: Any) -> bool:
    return a.losses == b.losses and all(
        torch.equal(a.modules[path].down, b.modules[path].down) and torch.equal(a.modules[path].up, b.modules[path].up)
        for path in a.modules
    )


def with_(**changes: Any) -> TrainSettings:
    return dataclasses.replace(SETTINGS, **changes)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(run: Callable[..., Any]) -> None:
    first = run()
    torch.rand(5)
    assert same(first, run())
    assert not same(first, run(with_(seed=1)))
    assert all(weights.up.any() for weights in first.modules.values())


def test_checkpointing_changes_memory_not_numbers(run: Callable[..., Any]) -> None:
    assert same(run(with_(gradient_checkpointing=True)), run(with_(gradient_checkpointing=False)))


def test_every_split_of_a_batch_gives_the_same_losses(run: Callable[..., Any]) -> None:
    losses = [
        run(with_(batch_size=batch, gradient_accumulation=4 // batch), count=5, lengths=(5, 9)).losses
        for batch in (1, 2, 4)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


def test_the_loss_falls(run: Callable[..., Any]) -> None:
    trained = run(with_(steps=60, learning_rate=5e-3), count=1)
    assert sum(trained.losses[-10:]) < 0.8 * sum(trained.losses[:10])


def test_reports_count_up_to_the_end(run: Callable[..., Any]) -> None:
    reports: list[StepReport] = []
    trained = run(reports=reports)
    assert [(r.step, r.steps, r.skipped) for r in reports] == [(n, 4, False) for n in (1, 2, 3, 4)]
    assert [r.loss for r in reports] == trained.losses
    assert reports[-1].seconds_left == 0
    assert reports[0].smoothed_loss == reports[0].loss
    assert trained.record.final_loss == reports[-1].smoothed_loss


def test_smoothing_starts_as_the_plain_mean() -> None:
    assert LossHistory([4.0, None, 2.0, 6.0]).smoothed == pytest.approx(4.0)


# ---- what must not change ------------------------------------------------------------------------------------


def test_comfyui_is_as_it_was_afterwards(run: Callable[..., Any], patcher: Any) -> None:
    before = snapshot(patcher)
    run()
    assert unchanged(before, snapshot(patcher))


@pytest.mark.parametrize("step", [0, 2])
def test_cancel_is_noticed_at_every_step_and_leaves_everything_as_it_was(
    run: Callable[..., Any], patcher: Any, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    import comfy.model_management

    before, reports = snapshot(patcher), []
    original = host.raise_if_interrupted

    def press_cancel() -> None:
        if len(reports) == step:
            comfy.model_management.interrupt_current_processing()
        original()

    monkeypatch.setattr(host, "raise_if_interrupted", press_cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(reports=reports)
    assert len(reports) == step
    assert unchanged(before, snapshot(patcher))


# ---- what goes wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["forward", "step"])
def test_out_of_memory_names_size_batch_and_remedy(
    run: Callable[..., Any], patcher: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    if where == "forward":
        monkeypatch.setattr(network.Network, "velocity", fail)
    else:
        monkeypatch.setattr(torch.optim.AdamW, "step", fail)
    before = snapshot(patcher)
    with pytest.raises(
        DoesNotFit, match=r"64x96 with batch size 2 .* Tried to allocate 2.00 GiB.* lower the batch size"
    ) as caught:
        run(with_(batch_size=2))
    assert caught.value.__context__ is None, "the original exception would keep the device's tensors alive"
    assert unchanged(before, snapshot(patcher))


def test_a_run_that_cannot_fit_is_refused_before_anything_is_loaded(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "total_memory", lambda _device: 2**20)
    monkeypatch.setattr(network, "frozen_copy", lambda *_: pytest.fail("the model was opened"))
    with pytest.raises(DoesNotFit, match=r"GiB"):
        run()


def test_a_device_that_is_too_small_is_told_in_numbers_and_with_the_size_that_fits(
    patcher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ideogram4_lora_trainer.trainer_core.training.fit import plan_run

    data = dataclasses.replace(training_data(tmp_path, patcher), width=1024, height=1536)
    settings = with_(memory_mode="streamed")
    needed = plan_run(patcher, data, settings).predicted_bytes
    monkeypatch.setattr(host, "total_memory", lambda _device: needed * 3 // 4)
    with pytest.raises(DoesNotFit, match=r"1024x1536 .*about [\d.]+ GiB of [\d.]+ GiB") as refused:
        plan_run(patcher, data, settings)
    advised = re.search(r"choose (\d+)x(\d+) or less", str(refused.value))
    assert advised
    smaller = dataclasses.replace(data, width=int(advised[1]), height=int(advised[2]))
    assert plan_run(patcher, smaller, settings).predicted_bytes <= needed * 3 // 4


def test_three_bad_steps_in_a_row_stop_the_run(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[StepReport] = []
    monkeypatch.setattr(loop, "velocity_loss", lambda v, _t: v.sum(dim=(1, 2, 3)) * float("nan"))
    with pytest.raises(NonFinite, match=r"step 3.* Lower the learning rate"):
        run(reports=reports)
    assert [r.skipped for r in reports] == [True, True, True]


def test_a_run_without_a_single_good_step_is_no_success(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "velocity_loss", lambda v, _t: v.sum(dim=(1, 2, 3)) * float("nan"))
    with pytest.raises(NonFinite, match=r"nothing was trained"):
        run(with_(steps=2))


def test_cancel_is_noticed_inside_gradient_accumulation(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management

    forwards = 0
    original = loop.velocity_loss

    def press_cancel_at_the_third(*args: Any) -> Any:
        nonlocal forwards
        forwards += 1
        if forwards == 3:
            comfy.model_management.interrupt_current_processing()
        return original(*args)

    monkeypatch.setattr(loop, "velocity_loss", press_cancel_at_the_third)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(with_(gradient_accumulation=64))
    assert forwards == 3


@pytest.mark.parametrize("checkpointing", [True, False])
def test_nothing_of_a_run_stays_in_memory(run: Callable[..., Any], checkpointing: bool) -> None:
    """Reference counts alone must free the adapters: memory is short exactly when nobody has collected garbage."""
    alive: list[weakref.ref[Any]] = []
    original = loop.inject_adapters

    def remember(*args: Any, **options: Any) -> Any:
        adapters = original(*args, **options)
        alive.extend(weakref.ref(parameter) for parameter in adapters.parameters().values())
        return adapters

    gc.collect()
    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "inject_adapters", remember)
            run(with_(gradient_checkpointing=checkpointing))
        assert alive
        assert not [ref for ref in alive if ref() is not None]
    finally:
        gc.enable()


def test_one_bad_step_is_skipped_and_reported(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[StepReport] = []
    real, calls = loop.velocity_loss, iter(range(100))
    monkeypatch.setattr(loop, "velocity_loss", lambda v, t: real(v, t) * (float("inf") if next(calls) == 1 else 1.0))
    trained = run(reports=reports)
    assert [r.skipped for r in reports] == [False, True, False, False]
    assert len(trained.losses) == 3
    assert all(torch.isfinite(w.up).all() for w in trained.modules.values())


def test_data_of_another_model_is_refused(patcher: Any, tmp_path: Path) -> None:
    data = dataclasses.replace(training_data(tmp_path, patcher), projection="another")
    with pytest.raises(TrainingDataMismatch, match=r"Connect the same model"):
        loop.train(patcher, data, SETTINGS, place_under(tmp_path))


def test_the_unconditional_twin_is_refused_by_its_file_name(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    twin = tiny_model("bf16", unconditional=True)
    with pytest.raises(WrongModel, match=r"ideogram4_tiny_unconditional_bf16\.safetensors is the unconditional"):
        loop.train(twin, None, SETTINGS, place_under(tmp_path))


def test_what_is_no_ideogram_4_is_refused(tiny_vae: Any, tmp_path: Path) -> None:
    with pytest.raises(WrongModel, match=r"AutoencoderKL, not Ideogram 4"):
        loop.train(tiny_vae.patcher, None, SETTINGS, place_under(tmp_path))


# ---- the self-check ------------------------------------------------------------------------------------------


def test_collapsed_positions_stop_the_run(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.ldm.ideogram4.model as ideogram4

    exact = ideogram4.precompute_freqs_cis
    monkeypatch.setattr(
        ideogram4,
        "precompute_freqs_cis",
        lambda head_dim, positions, *rest, **options: exact(head_dim, positions.bfloat16(), *rest, **options),
    )
    with pytest.raises(SelfCheckFailed, match="Only 1 of 24 image positions are distinct"):
        run()


def test_ambient_autocast_cannot_collapse_positions(run: Callable[..., Any]) -> None:
    plain = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(plain, run())


def test_a_flipped_sign_stops_the_run(
    patcher: Any, monkeypatch: pytest.MonkeyPatch, taught_data: Any, tmp_path: Path
) -> None:
    right = network.Network.velocity
    monkeypatch.setattr(network.Network, "velocity", lambda self, *args: -right(self, *args))
    with torch.inference_mode(), pytest.raises(SelfCheckFailed, match="opposite direction"):
        loop.train(patcher, taught_data, SETTINGS, place_under(tmp_path))


def test_a_taught_model_passes_without_a_note(patcher: Any, taught_data: Any, tmp_path: Path) -> None:
    notes: list[str] = []
    with torch.inference_mode():
        loop.train(patcher, taught_data, with_(steps=1), place_under(tmp_path), on_note=notes.append)
    assert notes == []


def test_a_dead_gradient_stops_the_run(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        network, "_attention", lambda _f, q, k, v, *_a, **_k: torch.zeros_like(v.transpose(1, 2).flatten(2))
    )
    with pytest.raises(SelfCheckFailed, match=r"No usable gradient reaches \d+ of \d+ .*attention.qkv"):
        run()
