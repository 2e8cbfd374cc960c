"""A run that was stopped and continued is the run that was never stopped, bit for bit."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.errors import CheckpointUnreadable, RunChanged, SaveFailed
from ideogram4_lora_trainer.trainer_core.paths import NameRejected
from ideogram4_lora_trainer.trainer_core.training import checkpoints, feed, loop
from ideogram4_lora_trainer.trainer_core.training.runs import list_runs
from networks import place_under, training_data
from safetensors.torch import load_file, save_file

SETTINGS = TrainSettings(steps=24, rank=2, learning_rate=1e-3, gradient_accumulation=2, schedule="cosine")
SIZES = ((64, 64), (64, 96), (96, 80))


class Cancelled(BaseException):
    """As ComfyUI's interrupt is raised."""


def state_of(folder: Path) -> dict[str, Any]:
    """The newest checkpoint of the only run, without its wall-clock time. The hashes stand for every weight."""
    (run,) = (folder / "runs").iterdir()
    state = checkpoints.read_state_json(checkpoints.list_checkpoints(run)[0])
    del state["seconds"], state["sha256"]["state.json"]
    return state


class Trainer:
    """Trains in a folder of its own, stopping where it is told to, and records what was trained on."""

    def __init__(self, patcher: Any, data: Any, folder: Path) -> None:
        self.patcher, self.data, self.folder = patcher, data, folder
        self.items: list[tuple[int, Any]] = []

    def train(
        self,
        settings: TrainSettings = SETTINGS,
        *,
        stop_at_forward: int | None = None,
        on_note: Callable[[str], None] = lambda note: None,
        **place: Any,
    ) -> Any:
        forwards = 0

        def prepare_batch(data: Any, micro: Any, *rest: Any, **options: Any) -> Any:
            nonlocal forwards
            forwards += 1
            if stop_at_forward is not None and forwards > stop_at_forward:
                raise Cancelled
            self.items.append((micro.first_position, micro.items, micro.sigmas))
            return original(data, micro, *rest, **options)

        with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
            original = feed.prepare_batch
            patch.setattr(feed, "prepare_batch", prepare_batch)
            return loop.train(self.patcher, self.data, settings, place_under(self.folder, **place), on_note=on_note)

    def stop_after(self, step: int, *, extra_forwards: int = 0, settings: TrainSettings = SETTINGS) -> str:
        """Cancel after `step` whole steps and some forward passes; returns the run's name."""
        with pytest.raises(Cancelled):
            self.train(settings, stop_at_forward=settings.gradient_accumulation * step + extra_forwards)
        (run,) = list_runs(self.folder / "runs")
        return run


@pytest.fixture(scope="module")
def trainers(tiny_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trainer]:
    """`trainers(dtype, size)`: five images, captions of different length, batches that differ."""
    patchers = {dtype: tiny_model("bf16", dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}

    def make(dtype: torch.dtype = torch.float32, size: tuple[int, int] = SIZES[0]) -> Trainer:
        cache = tmp_path_factory.mktemp("cache")
        data = training_data(cache, patchers[dtype], count=5, size=size, lengths=(5, 9, 7))
        return Trainer(patchers[dtype], data, tmp_path_factory.mktemp("run"))

    return make


@pytest.fixture(scope="module")
def uninterrupted(trainers: Callable[..., Trainer]) -> Callable[..., tuple[dict[str, Any], list[Any]]]:
    done: dict[Any, Any] = {}

    def run(dtype: torch.dtype, size: tuple[int, int]) -> tuple[dict[str, Any], list[Any]]:
        if (dtype, size) not in done:
            trainer = trainers(dtype, size)
            trainer.train()
            done[dtype, size] = state_of(trainer.folder), trainer.items
        return done[dtype, size]

    return run


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("step", range(1, 24))
def test_stopped_after_any_step_and_resumed(
    trainers: Callable[..., Trainer], uninterrupted: Callable[..., Any], dtype: torch.dtype, step: int
) -> None:
    size = SIZES[step % 3]
    trainer = trainers(dtype, size)
    # Every other time in the middle of an accumulated step, whose first half is then done again.
    run = trainer.stop_after(step, extra_forwards=step % 2)
    assert state_of(trainer.folder)["step"] == step
    seen = trainer.items[: 2 * step]
    trainer.items.clear()
    trainer.train(resume=run)

    state, items = uninterrupted(dtype, size)
    assert state_of(trainer.folder) == state, "adapter, optimiser, losses"
    assert seen + trainer.items == items, "order, noise levels and noise positions"


# ---- more steps, other settings, other data ------------------------------------------------------------------

CONSTANT = dataclasses.replace(SETTINGS, steps=6, schedule="constant", warmup_steps=0)


def with_(settings: TrainSettings = CONSTANT, **changes: Any) -> TrainSettings:
    return dataclasses.replace(settings, **changes)


@pytest.fixture
def finished(trainers: Callable[..., Trainer]) -> Trainer:
    """Four of six steps of a constant schedule, done and complete."""
    trainer = trainers()
    trainer.train(with_(steps=4))
    return trainer


def resume(trainer: Trainer, settings: TrainSettings = CONSTANT, **place: Any) -> Any:
    return trainer.train(settings, resume="ideogram4_00001", **place)


def test_more_steps_with_a_constant_rate_are_the_longer_run(
    trainers: Callable[..., Trainer], finished: Trainer
) -> None:
    longer = resume(finished)
    whole = trainers()
    expected = whole.train(CONSTANT)
    assert longer.losses == expected.losses
    ours, theirs = state_of(finished.folder), state_of(whole.folder)
    assert ours == theirs
    assert expected.record == longer.record


def test_resuming_a_complete_run_gives_its_lora_again(finished: Trainer) -> None:
    finished.items.clear()
    again = resume(finished, with_(steps=4))
    assert len(again.losses) == 4
    assert not finished.items[5:], "only the check before the first step ran"
    assert state_of(finished.folder)["step"] == 4


def test_a_finished_cosine_is_not_stretched_unasked(trainers: Callable[..., Trainer]) -> None:
    trainer = trainers()
    trainer.train(with_(steps=4, schedule="cosine"))
    with pytest.raises(RunChanged, match=r"ideogram4_00001, at step 4, .*steps: 4 before, 6 now.*continue anyway"):
        resume(trainer, with_(steps=6, schedule="cosine"))
    assert len(resume(trainer, with_(steps=6, schedule="cosine"), continue_anyway=True).losses) == 6


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"learning_rate": 2e-3}, "learning_rate: 0.001 before, 0.002 now"),
        ({"seed": 7}, "seed: 0 before, 7 now"),
        ({"batch_size": 2}, "batch_size: 1 before, 2 now"),
        ({"gradient_accumulation": 1}, "gradient_accumulation: 2 before, 1 now"),
        ({"schedule": "cosine"}, "schedule: constant before, cosine now"),
        ({"sigma_mu": 0.5}, "sigma_mu: 0.0 before, 0.5 now"),
        ({"latent_statistics": "vae"}, "latent_statistics: ideogram before, vae now"),
    ],
)
def test_a_changed_setting_is_refused_and_then_accepted_on_request(
    finished: Trainer, change: dict[str, Any], line: str
) -> None:
    before = state_of(finished.folder)
    with pytest.raises(RunChanged) as caught:
        resume(finished, with_(**change))
    assert line in str(caught.value)
    assert str(caught.value).count(" before, ") == 1, "nothing else is said to have changed"
    assert state_of(finished.folder) == before
    assert len(resume(finished, with_(**change), continue_anyway=True).losses) == 6
    # From now on these are the run's settings.
    assert len(resume(finished, with_(**change)).losses) == 6


@pytest.mark.parametrize("change", [{"rank": 3}, {"rank_stabilized": True}, {"train_modulation": True}, {"steps": 3}])
def test_some_changes_are_never_accepted(finished: Trainer, change: dict[str, Any]) -> None:
    with pytest.raises(RunChanged, match=rf"cannot be continued .*{next(iter(change))}: .* start a new run"):
        resume(finished, with_(**change), continue_anyway=True)


def test_a_lower_rank_is_named_and_not_the_size_of_the_files(finished: Trainer) -> None:
    """As with real sizes, where the checkpoint of a higher rank is larger than this run's may be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "_sha256_of_file", lambda *_: pytest.fail("the files were read"))
        with pytest.raises(RunChanged, match="rank: 2 before, 1 now"):
            resume(finished, with_(rank=1))


@pytest.mark.parametrize(
    "change", [{"gradient_checkpointing": False}, {"checkpoint_every": 1}, {"keep_checkpoints": 9}]
)
def test_what_no_result_depends_on_may_change(
    trainers: Callable[..., Trainer], finished: Trainer, change: dict[str, Any]
) -> None:
    changed = resume(finished, with_(**change))
    assert changed.losses == trainers().train(CONSTANT).losses


def test_changed_data_is_refused_with_what_changed(finished: Trainer) -> None:
    first, *others = finished.data.items
    cases = {
        "images: 5 before, 4 now": {"items": tuple(others)},
        "images: other files": {"items": (dataclasses.replace(first, latent_key=others[0].latent_key), *others)},
        "captions: other words": {"items": (dataclasses.replace(first, caption="changed"), *others)},
        "captions: the same words, encoded by": {"items": (dataclasses.replace(first, text_key="01bb"), *others)},
        "resolution: 64x64 before, 96x64 now": {"width": 96},
    }
    data = finished.data
    for line, change in cases.items():
        finished.data = dataclasses.replace(data, **change)
        with pytest.raises(RunChanged) as caught:
            resume(finished)
        assert line in str(caught.value)
    finished.data = dataclasses.replace(data, items=tuple(others))
    assert len(resume(finished, continue_anyway=True).losses) == 6


def test_another_model_is_refused_by_name_and_by_weights(finished: Trainer, tiny_model: Callable[..., Any]) -> None:
    from ideogram4_lora_trainer.trainer_core.model.encode import projection_identity

    finished.patcher = tiny_model("fp32")
    finished.data = dataclasses.replace(finished.data, projection=projection_identity(finished.patcher))
    with pytest.raises(RunChanged, match=r"model: ideogram4_tiny_bf16.safetensors before, ideogram4_tiny_fp32"):
        resume(finished)
    finished.patcher = tiny_model("bf16")
    finished.data = dataclasses.replace(finished.data, projection=projection_identity(finished.patcher))
    with torch.inference_mode():
        finished.patcher.model.diffusion_model.layers[1].attention.o.weight.add_(0.25)
    with pytest.raises(RunChanged, match=r"model: other weights under the same name"):
        resume(finished)


def test_another_lora_merged_into_the_model_is_another_model(
    trainers: Callable[..., Trainer], tiny_model: Callable[..., Any]
) -> None:
    from ideogram4_lora_trainer.trainer_core.lora_files import LoraWeights
    from ideogram4_lora_trainer.trainer_core.model.apply import apply_lora

    def with_lora(seed: int) -> Any:
        draw = torch.Generator().manual_seed(seed)
        weights = LoraWeights(torch.randn(4, 256, generator=draw), torch.randn(256, 4, generator=draw) * 0.02, 4.0)
        with torch.inference_mode():
            return apply_lora(base, {"layers.0.attention.o": weights}, strength=1.0, bypass=False, name="x")

    base, trainer = tiny_model("bf16"), trainers()
    trainer.patcher = with_lora(1)
    trainer.train(with_(steps=2))
    trainer.patcher = with_lora(2)
    with pytest.raises(RunChanged, match="another LoRA on it"):
        resume(trainer)
    trainer.patcher = with_lora(1)
    assert len(resume(trainer).losses) == 6


def test_the_vaes_statistics_matter_where_they_are_used(trainers: Callable[..., Trainer]) -> None:
    from ideogram4_lora_trainer.trainer_core.model.latents import LatentStatistics

    trainer = trainers()
    trainer.train(with_(steps=2, latent_statistics="vae"))
    used = trainer.data.vae_statistics
    trainer.data = dataclasses.replace(trainer.data, vae_statistics=LatentStatistics(used.shift + 0.1, used.scale))
    with pytest.raises(RunChanged, match="VAE: other latent statistics"):
        resume(trainer, with_(latent_statistics="vae"))


@pytest.mark.parametrize(
    ("schedule", "before", "now", "done", "same"),
    [
        ("constant", 100, 200, 100, True),
        ("constant", 100, 200, 20, True),
        ("constant", 100, 200, 12, False),  # the longer run would still be warming up
        ("constant", 100, 200, 5, False),
        ("constant", 1000, 2000, 5, True),  # both warm up over 20 steps
        ("constant", 200, 100, 50, True),
        ("cosine", 100, 200, 50, False),
        ("cosine", 100, 200, 100, False),
    ],
)
def test_more_steps_are_free_as_long_as_no_planned_rate_changes(
    schedule: str, before: int, now: int, done: int, same: bool
) -> None:
    from ideogram4_lora_trainer.trainer_core.training.facts import RunFacts, what_changed

    def facts(steps: int) -> RunFacts:
        text = dict.fromkeys(
            ("dataset", "images", "captions", "texts", "model", "model_weights", "compute", "latents", "start_lora"), ""
        )
        settings = TrainSettings(steps=steps, schedule=schedule, warmup_steps=20)
        return RunFacts(settings=settings, image_count=1, width=64, height=64, versions={}, **text)

    changes = what_changed(facts(before), facts(now), step=done)
    assert bool(changes.free) == same and bool(changes.questionable) != same


def test_other_versions_are_said_and_not_refused(finished: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    from ideogram4_lora_trainer.trainer_core.training import facts
    from ideogram4_lora_trainer.trainer_core.training.journal import read_journal

    real = facts.versions()
    monkeypatch.setattr(facts, "versions", lambda: {**real, "torch": "99.0"})
    assert len(resume(finished).losses) == 6
    (resumed,) = (e for e in read_journal(finished.folder / "runs/ideogram4_00001") if e["event"] == "resumed")
    assert any("torch" in line and "99.0" in line for line in resumed["changes"])


# ---- what is on disk -----------------------------------------------------------------------------------------


def test_checkpoints_come_every_n_steps_and_at_the_end_and_only_the_newest_stay(
    trainers: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:

    written: list[str] = []
    original = checkpoints.write_checkpoint
    monkeypatch.setattr(checkpoints, "write_checkpoint", lambda *a: written.append((p := original(*a)).name) or p)
    trainer = trainers()
    trainer.train(with_(steps=7, checkpoint_every=2, keep_checkpoints=3))
    assert written == ["step_000002", "step_000004", "step_000006", "step_000007"]
    (folder,) = (trainer.folder / "runs").iterdir()
    others = ["journal.jsonl", "loss.csv", "loss.png", "run.json", "run.lock"]
    assert sorted(p.name for p in folder.iterdir()) == [*others, *written[1:]]


def test_without_a_number_of_steps_a_checkpoint_comes_every_ten_minutes(
    trainers: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from ideogram4_lora_trainer.trainer_core.training import run_log, saves

    now = [0.0]
    monkeypatch.setattr(saves, "time", SimpleNamespace(monotonic=lambda: now[0]))
    saved: list[int] = []
    original = checkpoints.write_checkpoint
    monkeypatch.setattr(checkpoints, "write_checkpoint", lambda f, s, x: saved.append(s.step) or original(f, s, x))
    trainer = trainers()
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(run_log.RunLog, "step_done", lambda self, report: now.__setitem__(0, now[0] + 250))
        loop.train(trainer.patcher, trainer.data, with_(steps=8), place_under(trainer.folder))
    assert saved == [4, 8]


def test_the_adapter_of_a_checkpoint_is_a_lora_that_comfyui_loads(finished: Trainer) -> None:
    import comfy.lora
    import comfy.utils

    (folder,) = (finished.folder / "runs").iterdir()
    sd = comfy.utils.load_torch_file(str(checkpoints.list_checkpoints(folder)[0] / "adapter.safetensors"))
    key_map = comfy.lora.model_lora_keys_unet(finished.patcher.model, {})
    assert len(comfy.lora.load_lora(sd, key_map)) * 3 == len(sd)


def damage_truncate(folder: Path) -> None:
    path = folder / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def damage_flip(folder: Path) -> None:
    content = bytearray((folder / "adapter.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "adapter.safetensors").write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated optimizer": damage_truncate,
    "one flipped bit": damage_flip,
    "adapter gone": lambda folder: (folder / "adapter.safetensors").unlink(),
    "state empty": lambda folder: (folder / "state.json").write_text(""),
    "state of another kind": lambda folder: (folder / "state.json").write_text("[1, 2]"),
    "state with NaN": lambda folder: edit_state(folder, lambda state: state["losses"].__setitem__(0, float("nan"))),
    "state with a giant number": lambda folder: edit_state(folder, lambda s: s["losses"].__setitem__(0, 10**400)),
    "steps that do not add up": lambda folder: edit_state(folder, lambda state: state.update(step=3)),
    "a newer format": lambda folder: edit_state(folder, lambda state: state.update(format=99)),
    "a step that is no whole number": lambda folder: edit_state(folder, lambda state: state.update(step=5.0)),
    "no hashes": lambda folder: edit_state(folder, lambda state: state.pop("sha256")),
    "nested without end": lambda folder: (folder / "state.json").write_text("[" * 10**5),
    "one changed digit": lambda folder: replace_in_state(folder, '"seconds": ', '"seconds": 1'),
    "a setting that does not exist": lambda folder: edit_facts(folder, settings={"new_thing": 1}),
    "a setting beyond every number": lambda folder: edit_facts(folder, settings={"learning_rate": 10**400}),
    "facts that are missing": lambda folder: edit_state(folder, lambda state: state["facts"].pop("texts")),
    "facts of another kind": lambda folder: edit_facts(folder, image_count="five"),
    "versions of another kind": lambda folder: edit_facts(folder, versions={"torch": [1]}),
    "state that is far too large": lambda folder: (folder / "state.json").write_text("[" + "{}," * 2**21 + "{}]"),
    "adapter is a pipe": lambda folder: replace_by(folder / "adapter.safetensors", os.mkfifo),
    "state is a pipe": lambda folder: replace_by(folder / "state.json", os.mkfifo),
    "optimizer is a folder": lambda folder: replace_by(folder / "optimizer.safetensors", os.mkdir),
    "adapter is a link": lambda folder: replace_by_link(folder / "adapter.safetensors"),
    "optimizer as large as a disk": lambda folder: os.truncate(folder / "optimizer.safetensors", 2**40),
    "swapped matrices": lambda folder: rewrite_optimizer(folder, lambda name: name.replace("exp_avg_sq", "exp_avg2")),
    "another module": lambda folder: rewrite_optimizer(folder, lambda name: name.replace("layers.0", "layers.7")),
}


def edit_state(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change state.json as somebody would who knows how its hash is made."""
    state = json.loads((folder / "state.json").read_text())
    change(state)
    if isinstance(state.get("sha256"), dict):
        hashes = {name: state["sha256"][name] for name in (checkpoints.ADAPTER, checkpoints.OPTIMIZER)}
        body = json.dumps({**state, "sha256": hashes}, sort_keys=True).encode()
        state["sha256"]["state.json"] = hashlib.sha256(body).hexdigest()
    (folder / "state.json").write_text(json.dumps(state))


def edit_facts(folder: Path, **changes: Any) -> None:
    def change(state: dict[str, Any]) -> None:
        for name, value in changes.items():
            facts = state["facts"]
            facts[name] = {**facts[name], **value} if isinstance(value, dict) else value

    edit_state(folder, change)


def replace_in_state(folder: Path, old: str, new: str) -> None:
    path = folder / "state.json"
    path.write_text(path.read_text().replace(old, new, 1))


def replace_by(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def replace_by_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def rewrite_optimizer(folder: Path, rename: Callable[[str], str]) -> None:
    """A file of a stranger whose hashes are right."""
    path = folder / "optimizer.safetensors"
    save_file({rename(name): tensor for name, tensor in load_file(path).items()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_state(folder, lambda state: state["sha256"].update({"optimizer.safetensors": digest}))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_and_the_result_is_the_same(
    trainers: Callable[..., Trainer], uninterrupted: Callable[..., Any], damage: str
) -> None:
    trainer = trainers()
    run = trainer.stop_after(5, settings=with_(SETTINGS, checkpoint_every=3))
    newest, _ = checkpoints.list_checkpoints(trainer.folder / "runs" / run)
    DAMAGES[damage](newest)
    # Nothing but the damaged one may be given up for room while it is the newest.
    notes: list[str] = []
    trainer.train(with_(SETTINGS, keep_checkpoints=1), resume=run, on_note=notes.append)
    assert re.search(r"step_000005 cannot be used: .+\. step_000003 is used instead\.$", notes[0]), notes
    state = state_of(trainer.folder)
    expected = uninterrupted(torch.float32, SIZES[0])[0]
    assert state["sha256"] == expected["sha256"] and state["losses"] == expected["losses"]


def test_a_run_without_a_usable_checkpoint_says_so(finished: Trainer) -> None:
    (folder,) = (finished.folder / "runs").iterdir()
    for checkpoint in checkpoints.list_checkpoints(folder):
        damage_flip(checkpoint)
    with pytest.raises(
        CheckpointUnreadable,
        match=r"No checkpoint of ideogram4_00001 can be used\. .*is not what was written\. Start a new",
    ):
        resume(finished)


def test_the_only_whole_checkpoint_is_never_deleted(trainers: Callable[..., Trainer]) -> None:
    """A newer one that is damaged does not count, also when the disk is so full that room must be made."""

    trainer = trainers()
    run = trainer.stop_after(5, settings=with_(SETTINGS, checkpoint_every=3))
    newest, older = checkpoints.list_checkpoints(trainer.folder / "runs" / run)
    damage_flip(newest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "write_checkpoint", lambda *_: (_ for _ in ()).throw(SaveFailed("full")))
        trainer.train(with_(SETTINGS, keep_checkpoints=1), resume=run)
    assert older in checkpoints.list_checkpoints(trainer.folder / "runs" / run)


@pytest.mark.parametrize("name", ["gone", "..", "../outside", "", ".", "/etc", "a\0b", "ideogram4_00001/x"])
def test_runs_that_do_not_exist_are_refused_with_those_that_do(finished: Trainer, name: str) -> None:
    from ideogram4_lora_trainer.trainer_core.errors import UserError
    from ideogram4_lora_trainer.trainer_core.training.runs import find_run

    with pytest.raises(UserError, match=r"ideogram4_00001|outside of runs"):
        find_run(finished.folder / "runs", name) and pytest.fail(name)


def test_a_new_run_points_at_an_unfinished_one_of_the_same_kind(trainers: Callable[..., Trainer]) -> None:
    trainer = trainers()
    trainer.stop_after(2, settings=CONSTANT)
    (trainer.folder / "runs" / "noise").mkdir()

    def notes(settings: TrainSettings) -> list[str]:
        said: list[str] = []
        with torch.inference_mode():
            loop.train(trainer.patcher, trainer.data, settings, place_under(trainer.folder), on_note=said.append)
        return [note for note in said if "under resume" in note]

    (hint,) = notes(CONSTANT)
    assert hint.startswith("ideogram4_00001 has the same data and settings and is at step 2.")
    assert not notes(with_(seed=5))
    resume(trainer)
    assert not notes(CONSTANT), "it is finished now"


def test_folders_that_are_no_runs_are_not_listed(finished: Trainer) -> None:
    runs = finished.folder / "runs"
    (runs / "notes").mkdir()
    (runs / "file.txt").write_text("x")
    shutil.copytree(runs / "ideogram4_00001", runs / "copy")
    assert sorted(list_runs(runs)) == ["copy", "ideogram4_00001"]
    assert list_runs(runs / "nothing here") == []


def test_too_little_room_for_checkpoints_is_told_before_the_first_step(
    trainers: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    trainer = trainers()
    with monkeypatch.context() as patch, pytest.raises(SaveFailed, match=r"need [\d,]+ bytes, 1,000 are free\. Make"):
        patch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1000))
        trainer.train()
    assert list_runs(trainer.folder / "runs") == []
    assert not trainer.items, "nothing was loaded"


@pytest.mark.parametrize("what", ["a file", "read-only"])
def test_a_runs_folder_that_cannot_be_written_to_is_told_at_once(trainers: Callable[..., Trainer], what: str) -> None:
    trainer = trainers()
    runs = trainer.folder / "runs"
    if what == "a file":
        runs.write_text("")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SaveFailed, match=r"cannot be written to .*runs"):
        if what == "read-only":  # permissions mean nothing to root, who may run these tests
            patch.setattr(Path, "mkdir", raise_read_only)
        trainer.train()
    assert not trainer.items


def raise_read_only(path: Path, *_args: Any, **_options: Any) -> None:
    raise OSError(errno.EROFS, "Read-only file system", str(path))


def test_leftovers_of_a_crash_are_swept_when_the_run_goes_on(finished: Trainer) -> None:
    (folder,) = (finished.folder / "runs").iterdir()
    (folder / ".ideogram4-lora-partial-1").mkdir()
    (folder / ".ideogram4-lora-partial-1" / "adapter.safetensors").write_bytes(b"x" * 100)
    resume(finished)
    assert not list(folder.glob(".*"))


def test_leftovers_in_other_runs_are_swept_when_they_are_old(finished: Trainer) -> None:
    (folder,) = (finished.folder / "runs").iterdir()
    for name in ("old", "young"):
        (folder / f".ideogram4-lora-partial-{name}").mkdir()
    os.utime(folder / ".ideogram4-lora-partial-old", (1, 1))
    finished.train(with_(steps=1))
    assert [path.name for path in folder.glob(".*")] == [".ideogram4-lora-partial-young"]


def test_a_run_is_trained_by_one_process_at_a_time(finished: Trainer) -> None:
    from ideogram4_lora_trainer.trainer_core.errors import RunInUse

    def resume_again(_note: str) -> None:
        with pytest.raises(RunInUse, match=r"ideogram4_00001 is being trained already"):
            resume(finished)

    resume(finished, on_note=resume_again)
    assert state_of(finished.folder)["step"] == 6
    resume(finished)


@pytest.mark.parametrize("journal", ["link", "pipe", "folder"])
def test_a_journal_that_is_no_file_is_left_alone_and_the_run_goes_on(finished: Trainer, journal: str) -> None:
    path = finished.folder / "runs" / "ideogram4_00001" / "journal.jsonl"
    outside = finished.folder / "outside.txt"
    outside.write_text("mine\n")
    make = {"link": lambda p: p.symlink_to(outside), "pipe": os.mkfifo, "folder": os.mkdir}
    replace_by(path, make[journal])
    assert len(resume(finished).losses) == 6
    assert outside.read_text() == "mine\n"


def test_folders_that_cannot_be_read_or_vanish_break_no_list(
    finished: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = finished.folder / "runs"
    for name in ("private", "vanishing"):
        shutil.copytree(runs / "ideogram4_00001", runs / name)
    scandir, stat = os.scandir, Path.stat

    def refuse(path: Any) -> Any:
        if Path(path).name == "private":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    def vanish(path: Path, **options: Any) -> Any:
        if path.name == "vanishing":
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(Path, "stat", vanish)
    assert list_runs(runs) == ["ideogram4_00001"]


def test_resuming_says_what_it_does(finished: Trainer, trainers: Callable[..., Trainer]) -> None:
    def notes(settings: TrainSettings, **place: Any) -> list[str]:
        said: list[str] = []
        resume(finished, settings, on_note=said.append, **place)
        return said

    assert notes(with_(steps=4)) == ["ideogram4_00001 is complete at step 4; this is its LoRA. For more, raise steps."]
    (said,) = notes(with_(steps=5, learning_rate=2e-3), continue_anyway=True)
    assert said.startswith(
        "Going on with ideogram4_00001 from step 4 of 5. Changed: learning_rate: 0.001 before, 0.002 now"
    )
    (said,) = notes(with_(steps=6, learning_rate=2e-3), start_lora="style.safetensors")
    assert said.endswith("style.safetensors is not used: only a new run starts from a LoRA.")
    from ideogram4_lora_trainer.trainer_core.training.journal import read_journal

    kept = [e["text"] for e in read_journal(finished.folder / "runs/ideogram4_00001") if e["event"] == "note"]
    assert said in kept and len(kept) == 3


def test_a_stop_at_the_same_step_writes_its_lora_once(trainers: Callable[..., Trainer]) -> None:
    trainer = trainers()
    run = trainer.stop_after(2)
    for _ in range(3):
        with pytest.raises(Cancelled):
            trainer.train(resume=run, stop_at_forward=1)
    assert [path.name for path in (trainer.folder / "loras").iterdir()] == ["ideogram4_00001_step_000002.safetensors"]


def test_a_run_that_did_no_step_leaves_nothing(trainers: Callable[..., Trainer]) -> None:
    trainer = trainers()
    said: list[str] = []
    with pytest.raises(Cancelled):
        trainer.train(stop_at_forward=1, on_note=said.append)
    assert said == ["Stopped before the first step was done, so there is nothing to keep."]
    assert list((trainer.folder / "runs").iterdir()) == []


def test_memory_of_the_checkpoint_is_given_back(trainers: Callable[..., Trainer], finished: Trainer) -> None:
    from ideogram4_lora_trainer.trainer_core.training import run as run_module

    alive: list[weakref.ref[Any]] = []
    original = run_module.restore

    def remember(state: Any, *args: Any, **options: Any) -> None:
        original(state, *args, **options)
        alive.extend(weakref.ref(tensor) for tensor in state.optimizer.values())

    left: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "restore", remember)
        loss = loop.velocity_loss
        patch.setattr(loop, "velocity_loss", lambda *a: left.append(sum(r() is not None for r in alive)) or loss(*a))
        resume(finished)
    assert alive and left[-1] == 0


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "a\\b", "C:x", "CON", "x.", "", "a\0b", "..", "x" * 300])
def test_a_name_that_no_folder_can_have_is_refused_before_anything_runs(
    trainers: Callable[..., Trainer], name: str
) -> None:
    trainer = trainers()
    with pytest.raises(NameRejected):
        trainer.train(name=name)
    assert not trainer.items
    assert not list(trainer.folder.iterdir())


# ---- beginning with a LoRA -----------------------------------------------------------------------------------


def start(trainer: Trainer, lora: Any, settings: TrainSettings = CONSTANT) -> Any:
    return trainer.train(settings, start_modules=lora, start_lora="style.safetensors")


def deltas(modules: Any) -> dict[str, torch.Tensor]:
    return {path: weights.delta() for path, weights in modules.items()}


@pytest.mark.parametrize("rank", [2, 5])
@pytest.mark.parametrize("stabilized", [False, True])
def test_a_run_begins_exactly_where_a_lora_ended(
    trainers: Callable[..., Trainer], finished: Trainer, rank: int, stabilized: bool
) -> None:
    lora = resume(finished, with_(steps=4)).modules
    trainer = trainers()
    settings = with_(steps=1, rank=rank, rank_stabilized=stabilized, learning_rate=1e-6)
    started = start(trainer, lora, settings)
    assert started.record.start_lora == "style.safetensors"
    first = checkpoints.read_checkpoint(trainer.folder / "runs/ideogram4_00001/step_000000").state
    for path, delta in deltas(lora).items():
        torch.testing.assert_close(first.adapter[path].delta(), delta, rtol=1e-5, atol=1e-8)
        # At a higher rank the new directions can learn.
        assert started.modules[path].up.count_nonzero() == started.modules[path].up.numel()


def test_every_layout_that_the_loader_reads_can_be_started_from(
    trainers: Callable[..., Trainer], finished: Trainer, tmp_path: Path
) -> None:
    from ideogram4_lora_trainer.trainer_core.lora_files import read_lora, save_lora

    lora = resume(finished, with_(steps=4)).modules
    expected = deltas(lora)
    for layout in ("comfy", "fal", "diffusers"):
        path = save_lora(lora, folder=tmp_path, stem=layout, layout=layout, metadata={}, dtype=torch.float32)
        trainer = trainers()
        start(trainer, read_lora(path).modules, with_(steps=1))
        first = checkpoints.read_checkpoint(trainer.folder / "runs/ideogram4_00001/step_000000").state
        assert all(torch.equal(first.adapter[key].delta(), delta) for key, delta in expected.items())


def test_a_run_that_began_with_a_lora_is_resumed_without_it(
    trainers: Callable[..., Trainer], finished: Trainer
) -> None:
    lora = resume(finished, with_(steps=4)).modules
    whole, parts = trainers(), trainers()
    start(whole, lora)
    with pytest.raises(Cancelled):
        parts.train(CONSTANT, stop_at_forward=6, start_modules=lora, start_lora="style.safetensors")
    assert resume(parts).record.start_lora == "style.safetensors"
    assert state_of(parts.folder) == state_of(whole.folder)


def test_loras_that_cannot_be_started_from(trainers: Callable[..., Trainer], finished: Trainer) -> None:
    from ideogram4_lora_trainer.trainer_core.errors import LoraMismatch
    from ideogram4_lora_trainer.trainer_core.lora_files import LoraWeights

    lora = resume(finished, with_(steps=4)).modules
    flat = LoraWeights(torch.zeros(2, 3), torch.zeros(3, 2), 2.0)
    cases = {
        "has rank 2, this run 1. Set the rank to 2": (lora, with_(rank=1)),
        "Turn train_modulation on": ({**lora, "layers.0.adaln_modulation": flat}, CONSTANT),
        "does not fit this model": ({**lora, "layers.0.attention.o": flat}, CONSTANT),
        "Choose another LoRA": ({**lora, "layers.9.attention.o": flat}, CONSTANT),
    }
    for words, (modules, settings) in cases.items():
        with pytest.raises(LoraMismatch, match=r"style\.safetensors") as caught:
            start(trainers(), modules, settings)
        assert words in str(caught.value)
