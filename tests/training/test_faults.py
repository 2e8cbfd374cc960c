"""Whatever goes wrong, and wherever: afterwards the run goes on and ends in the same weights as if nothing had been.

Every fault also has to leave ComfyUI as it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import hashlib
import os
import re
import shutil
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
import torch
from ideogram4_lora_trainer.trainer_core import storage
from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.errors import (
    DoesNotFit,
    NonFinite,
    SaveFailed,
    TrainingDataMismatch,
    UserError,
)
from ideogram4_lora_trainer.trainer_core.model import host, network, products, stack
from ideogram4_lora_trainer.trainer_core.training import checkpoints, feed, loop, run_log, saves
from ideogram4_lora_trainer.trainer_core.training import run as run_module
from ideogram4_lora_trainer.trainer_core.training import runs as runs_module
from ideogram4_lora_trainer.trainer_core.training.journal import Journal, read_journal
from networks import place_under, snapshot, training_data, unchanged

SETTINGS = TrainSettings(
    steps=6, rank=2, learning_rate=1e-3, warmup_steps=0, gradient_accumulation=2, checkpoint_every=2, keep_checkpoints=1
)
FAULT_STEP = 3
WEIGHTS = (checkpoints.ADAPTER, checkpoints.OPTIMIZER)
"""Faults happen in the fourth step: two are in a checkpoint, one more is done."""


class Cancel(Exception):
    pass


class HardCancel(BaseException):
    pass


class PowerCut(BaseException):
    pass


@pytest.fixture(scope="module")
def patcher(tiny_model: Callable[..., Any]) -> Any:
    return tiny_model("bf16")


@pytest.fixture(scope="module")
def data(patcher: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return training_data(tmp_path_factory.mktemp("cache"), patcher, count=5, size=(64, 64), lengths=(5, 9, 7))


@pytest.fixture
def train(patcher: Any, data: Any, tmp_path: Path) -> Callable[..., Any]:
    def run(folder: Path = tmp_path, *, settings: TrainSettings = SETTINGS, **options: Any) -> Any:
        place = place_under(
            folder, **{key: options.pop(key) for key in ("resume", "continue_anyway") if key in options}
        )
        with torch.inference_mode():
            return loop.train(patcher, options.pop("data", data), settings, place, **options)

    return run


@pytest.fixture(scope="module")
def undisturbed(patcher: Any, data: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with torch.inference_mode():
        loop.train(patcher, data, SETTINGS, place_under(folder))
    return result(folder)


def result(folder: Path) -> dict[str, Any]:
    """Losses and the hashes of weights and optimiser of the newest checkpoint of the only run, and its journal."""
    (run,) = (path for path in (folder / "runs").iterdir() if not path.name.startswith("."))
    newest = checkpoints.list_checkpoints(run)[0]
    state = checkpoints.read_state_json(newest)
    hashes = {name: hashlib.sha256((newest / name).read_bytes()).hexdigest() for name in WEIGHTS}
    steps = [(e["step"], e["loss"]) for e in read_journal(run) if e["event"] == "step"]
    return {"step": state["step"], "losses": state["losses"], "files": hashes, "journal": steps}


def no_partial_files(folder: Path) -> bool:
    """Every checkpoint that can be seen is whole, and every LoRA loads."""
    for run in (folder / "runs").iterdir():
        for path in checkpoints.list_checkpoints(run):
            checkpoints.read_checkpoint(path)
    return True


# ---- faults in memory, in the numbers, and by the user -------------------------------------------------------


@contextlib.contextmanager
def fault(target: Any, name: str, act: Callable[..., Any], *, at_call: int, times: int = 1) -> Iterator[None]:
    """From the `at_call`-th call of `target.name` on, call `act(original, *args)` instead, `times` times."""
    calls = 0
    original = getattr(target, name)

    def replaced(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if at_call <= calls < at_call + times:
            return act(original, *args, **options)
        return original(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, replaced)
        yield


def raising(error: type[BaseException], message: str = "CUDA out of memory. Tried to allocate 2.00 GiB.") -> Any:
    def act(*_args: Any, **_options: Any) -> Any:
        raise error(message)

    return act


def half_then(error: type[BaseException]) -> Any:
    """An optimiser that has changed some weights already when it fails."""

    def act(_original: Any, optimizer: torch.optim.Optimizer, *_args: Any) -> Any:
        with torch.no_grad():
            for parameter in optimizer.param_groups[0]["params"][:7]:
                parameter.add_(1.0)
        raise error("CUDA out of memory. Tried to allocate 2.00 GiB.")

    return act


PER_STEP = SETTINGS.gradient_accumulation
CHECK_BATCHES = 4
CHECK_FORWARDS = 6
ADAPTED = 10
"""Adapted layers of the tiny model."""
CHECK_BACKWARDS = 1

# Stage to (object, attribute, number of the call that belongs to the second forward of the fault's step).
STAGES: dict[str, tuple[Any, str, int]] = {
    "opening the model": (network, "frozen_copy", 1),
    "placing adapters": (loop, "inject_adapters", 1),
    "the check before step 1": (loop, "self_check", 1),
    "the first checkpoint": (runs_module, "checkpoint_files", 1),
    "making a batch": (feed, "prepare_batch", FAULT_STEP * PER_STEP + 2),
    "forward": (network.Network, "velocity", CHECK_FORWARDS + FAULT_STEP * PER_STEP + 2),
    "loss": (loop, "velocity_loss", FAULT_STEP * PER_STEP + 2),
    "backward": (torch.Tensor, "backward", CHECK_BACKWARDS + FAULT_STEP * PER_STEP + 2),
    "inside a layer's backward": (
        products.Adapted,
        "adapter_gradients",
        ADAPTED * (CHECK_BACKWARDS + FAULT_STEP * PER_STEP + 1) + 4,
    ),
    "clipping": (loop, "clip_gradients", FAULT_STEP + 1),
    "optimiser": (torch.optim.AdamW, "step", FAULT_STEP + 1),
    "reporting": (run_log.RunLog, "step_done", FAULT_STEP + 1),
    "capturing": (loop, "capture", 1),
    "saving": (checkpoints, "write_checkpoint", 2),
    "deleting old checkpoints": (saves, "delete_old_checkpoints", 2),
    "the result": (loop, "trained_weights", 1),
}


@pytest.fixture
def disturbed(
    train: Callable[..., Any], patcher: Any, undisturbed: dict[str, Any], tmp_path: Path
) -> Callable[..., None]:
    """Train under a fault, check what is left, go on without it, and compare with the undisturbed run."""

    def check(
        broken: contextlib.AbstractContextManager[Any], expected: type[BaseException] | None, **options: Any
    ) -> None:
        before = snapshot(patcher)
        with broken:
            if expected is None:
                train(**options)
            else:
                with pytest.raises(expected):
                    train(**options)
        assert unchanged(before, snapshot(patcher))
        runs = runs_module.list_runs(tmp_path / "runs")
        if runs:
            assert no_partial_files(tmp_path)
            train(resume=runs[0])
        else:
            train()
        assert result(tmp_path) == undisturbed

    return check


FOREVER = 10**6


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_out_of_memory_while_there_is_a_smaller_mode(disturbed: Callable[..., None], stage: str, times: int) -> None:
    """The run frees memory, steps down, twice if it must, and ends well by itself."""
    target, name, at_call = STAGES[stage]
    settings = dataclasses.replace(SETTINGS, gradient_checkpointing=False)
    broken = fault(target, name, raising(torch.OutOfMemoryError), at_call=at_call, times=times)
    disturbed(broken, None, settings=settings)


@pytest.mark.parametrize("stage", STAGES)
def test_out_of_memory_in_every_mode(disturbed: Callable[..., None], stage: str) -> None:
    target, name, at_call = STAGES[stage]
    broken = fault(target, name, raising(torch.OutOfMemoryError), at_call=at_call, times=FOREVER)
    # Of the modes only the last two: each attempt may do a step, and there must be one left for the last to fail in.
    disturbed(broken, DoesNotFit, settings=dataclasses.replace(SETTINGS, memory_mode="offloaded"))


@pytest.mark.parametrize("stage", ["clipping", "forward", "inside a layer's backward"])
@pytest.mark.parametrize("mode", ["auto", "offloaded"])
def test_stepping_down_gives_back_what_the_first_attempt_held(
    train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, mode: str, stage: str
) -> None:
    """Reference counts alone must do it: memory is short exactly when nobody has collected garbage. And before anything
    else is done, since ComfyUI loads as much of the model as there is room for.
    """
    held: list[weakref.ref[Any]] = []
    alive: dict[str, list[int]] = {"empty_cache": [], "load_on_device": []}
    inject, brought = loop.inject_adapters, stack.BlockWeights.brought

    def injected(*args: Any, **options: Any) -> Any:
        adapters = inject(*args, **options)
        held.extend(weakref.ref(parameter) for parameter in adapters.parameters().values())
        return adapters

    def bringing(self: Any, index: int, then: int) -> Any:
        held.append(weakref.ref(self))
        return brought(self, index, then)

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(host, name)

        def call(*args: Any) -> Any:
            alive[name].append(sum(ref() is not None for ref in held))
            return original(*args)

        return call

    monkeypatch.setattr(loop, "inject_adapters", injected)
    monkeypatch.setattr(stack.BlockWeights, "brought", bringing)
    monkeypatch.setattr(host, "empty_cache", counted("empty_cache"))
    monkeypatch.setattr(host, "load_on_device", counted("load_on_device"))
    gc.collect()
    gc.disable()
    try:
        target, name, at_call = STAGES[stage]
        with fault(target, name, raising(torch.OutOfMemoryError), at_call=at_call):
            train(settings=dataclasses.replace(SETTINGS, memory_mode=mode, gradient_checkpointing=False))
    finally:
        gc.enable()
    assert held
    assert alive == {"empty_cache": [0, alive["empty_cache"][1]], "load_on_device": [0, 0]}


def test_main_memory_that_runs_out_while_saving_is_told_and_costs_nothing(
    train: Callable[..., Any], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    notes: list[str] = []
    with fault(loop, "capture", raising(MemoryError), at_call=1):
        train(on_note=notes.append)
    assert notes == ["A checkpoint was not written, because main memory is full. Training goes on; the newest "
                     "checkpoint is that of step 0."]  # fmt: skip
    assert result(tmp_path) == undisturbed


@pytest.mark.parametrize("error", [Cancel, HardCancel], ids=["Exception", "BaseException"])
@pytest.mark.parametrize("stage", STAGES)
def test_cancelled(
    disturbed: Callable[..., None], monkeypatch: pytest.MonkeyPatch, stage: str, error: type[BaseException]
) -> None:
    """As ComfyUI raises its interrupt, in older versions and in newer ones."""
    monkeypatch.setattr(comfy.model_management, "InterruptProcessingException", error)
    target, name, at_call = STAGES[stage]
    disturbed(fault(target, name, raising(error), at_call=at_call), error)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyboardInterrupt])
def test_an_optimiser_that_fails_half_way_is_not_saved(disturbed: Callable[..., None], error: Any) -> None:
    expected = None if error is torch.OutOfMemoryError else KeyboardInterrupt
    disturbed(fault(torch.optim.AdamW, "step", half_then(error), at_call=FAULT_STEP + 1), expected)


def nan_gradient(original: Any, parameters: list[Any], max_norm: float) -> float:
    parameters[3].grad[0, 0] = float("nan")
    return original(parameters, max_norm)


def nan_weight(original: Any, *args: Any) -> Any:
    done = original(*args)
    with torch.no_grad():
        args[0].param_groups[0]["params"][2][0, 0] = float("nan")
    return done


def nan_moment(original: Any, *args: Any) -> Any:
    done = original(*args)
    args[0].state[args[0].param_groups[0]["params"][2]]["exp_avg_sq"][0, 0] = float("inf")
    return done


NUMBERS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "loss": lambda: fault(loop, "velocity_loss", lambda f, *a: f(*a) * float("nan"), at_call=7, times=6),
    "gradient": lambda: fault(loop, "clip_gradients", nan_gradient, at_call=FAULT_STEP + 1, times=3),
    "prediction": lambda: fault(
        network.Network, "velocity", lambda f, *a: f(*a) / 0.0, at_call=CHECK_FORWARDS + 2 * FAULT_STEP + 1, times=6
    ),
    "weight": lambda: fault(torch.optim.AdamW, "step", nan_weight, at_call=FAULT_STEP),
    "moment": lambda: fault(torch.optim.AdamW, "step", nan_moment, at_call=FAULT_STEP + 1),
}


@pytest.mark.parametrize("where", NUMBERS)
def test_numbers_that_are_not_finite_stop_the_run_at_the_last_good_state(
    disturbed: Callable[..., None], where: str
) -> None:
    disturbed(NUMBERS[where](), NonFinite)


@pytest.mark.parametrize("what", ["latent", "text"])
def test_nan_in_the_cached_data(
    train: Callable[..., Any], undisturbed: dict[str, Any], data: Any, patcher: Any, tmp_path: Path, what: str
) -> None:
    own = training_data(tmp_path / "cache", patcher, count=5, size=(64, 64), lengths=(5, 9, 7))
    victim = own.items[feed.plan_step(SETTINGS, FAULT_STEP, 5, 64, 64)[1].items[0]]
    key = victim.latent_key if what == "latent" else victim.text_key
    tensor = own.cache.load(key).clone()
    tensor.view(-1)[5] = float("nan")
    own.cache.store(key, tensor)
    with pytest.raises(TrainingDataMismatch, match=r"NaN .*Run again: it will be encoded anew"):
        train(data=own)
    assert key not in own.cache
    (run,) = runs_module.list_runs(tmp_path / "runs") or [""]
    train(resume=run)
    assert result(tmp_path) == undisturbed


def test_another_workflow_takes_the_model_away(disturbed: Callable[..., None]) -> None:
    def evict(original: Any, *args: Any) -> Any:
        comfy.model_management.unload_all_models()
        return original(*args)

    disturbed(fault(network.Network, "velocity", evict, at_call=CHECK_FORWARDS + 3), None)


def test_cancel_by_comfyui_itself_names_what_was_saved(
    train: Callable[..., Any], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    def press(report: Any) -> None:
        if report.step == 3:
            comfy.model_management.interrupt_current_processing()

    notes: list[str] = []
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(on_step=press, on_note=notes.append)
    words = (
        "Stopped at step 3 of 6. The LoRA so far is ideogram4_00001_step_000003.safetensors in loras. To go on, "
        "choose ideogram4_00001 under resume and run again."
    )
    assert notes[-1] == words
    assert (tmp_path / "loras" / "ideogram4_00001_step_000003.safetensors").is_file()
    stopped = read_journal(tmp_path / "runs" / "ideogram4_00001")[-2]
    assert (stopped["event"], stopped["reason"], stopped["message"]) == ("stopped", "cancelled", words)
    train(resume="ideogram4_00001")
    assert result(tmp_path) == undisturbed


def test_messages_of_failures_name_what_was_saved(train: Callable[..., Any], tmp_path: Path) -> None:
    with NUMBERS["loss"](), pytest.raises(NonFinite) as caught:
        train()
    assert "unstable" in str(caught.value) and "Stopped at step 3 of 6" in str(caught.value)
    assert "The LoRA so far is ideogram4_00001_step_000003.safetensors in loras." in str(caught.value)
    assert 'set if_changed to "continue anyway"' in str(caught.value)
    assert caught.value.code == "non_finite"
    with (
        fault(loop, "clip_gradients", raising(torch.OutOfMemoryError), at_call=2, times=FOREVER),
        pytest.raises(
            DoesNotFit,
            match=r"64x64 with batch size 1 and rank 2 .*not even with weights streamed.*Stopped at step 4 of 6",
        ),
    ):
        train(resume="ideogram4_00001")


def test_ten_skipped_steps_in_all_end_a_run_across_resumes_until_settings_change(
    train: Callable[..., Any], data: Any, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, steps=40, gradient_accumulation=1)
    calls = {"bad": 0}

    def every_other(original: Any, *args: Any) -> Any:
        calls["bad"] += 1
        return original(*args) * (float("nan") if calls["bad"] % 2 else 1.0)

    broken: dict[str, Any] = {"at_call": 1, "times": FOREVER}
    with fault(loop, "velocity_loss", every_other, **broken), pytest.raises(KeyboardInterrupt):
        train(settings=settings, on_step=lambda report: raising(KeyboardInterrupt)() if report.step == 10 else None)
    with fault(loop, "velocity_loss", every_other, **broken), pytest.raises(NonFinite, match="not finite in 10 steps"):
        train(settings=settings, resume="ideogram4_00001")
    lower = dataclasses.replace(settings, learning_rate=1e-4)
    reports: list[Any] = []
    with fault(loop, "velocity_loss", every_other, **broken), pytest.raises(NonFinite, match="not finite in 10 steps"):
        train(settings=lower, resume="ideogram4_00001", continue_anyway=True, on_step=reports.append)
    assert sum(report.skipped for report in reports) == 10


def test_a_defect_of_ours_is_shown_as_it_is_and_loses_nothing(
    disturbed: Callable[..., None],
) -> None:
    disturbed(fault(loop, "clip_gradients", raising(RuntimeError, "boom"), at_call=FAULT_STEP + 1), RuntimeError)


# ---- faults of the disk --------------------------------------------------------------------------------------


class Disk:
    """The disk operations of saving, counted, any of which can fail.

    `full` makes the n-th operation and all later ones fail with "no space left". `cut` makes the n-th raise
    `PowerCut` and all later ones too, since a machine without power writes nothing more; afterwards `lose` takes away
    what was not synced by then: files are cut in half, and renames whose folder was not synced are undone if asked.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.operations: list[str] = []
        self.fail_at = 0
        self.kind = ""
        self._unsynced_files: set[Path] = set()
        self._unsynced_renames: list[tuple[Path, Path]] = []

    def __call__(self, name: str) -> None:
        self.operations.append(name)
        if self.fail_at and len(self.operations) >= self.fail_at:
            if self.kind == "cut":
                raise PowerCut(name)
            if name != "delete":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextlib.contextmanager
    def watched(self) -> Iterator[Disk]:
        real_open, real_fsync, real_rmtree = open, os.fsync, storage.shutil.rmtree
        real_mkdir, real_rename, real_journal = Path.mkdir, Path.rename, Journal.write

        def own(path: Path) -> bool:
            return self.root in Path(path).parents

        def open_(path: Any, mode: str = "r", **options: Any) -> Any:
            if not isinstance(path, int) and own(path) and "x" in mode:
                self("create")
                self._unsynced_files.add(Path(path))
                return _File(real_open(path, mode), self)
            return real_open(path, mode, **options)

        def fsync(descriptor: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if not own(path):
                return real_fsync(descriptor)
            self("sync folder" if path.is_dir() else "sync file")
            self._unsynced_files.discard(path)
            self._unsynced_renames = [pair for pair in self._unsynced_renames if pair[1].parent != path]
            return real_fsync(descriptor)

        def mkdir(path: Path, *args: Any, **options: Any) -> None:
            if own(path) and not path.exists():
                self("mkdir")
            real_mkdir(path, *args, **options)

        def rename(path: Path, target: Path) -> Path:
            if own(path):
                self("rename")
                self._unsynced_renames.append((path, target))
                self._unsynced_files = {
                    target / file.relative_to(path) if path in file.parents else file for file in self._unsynced_files
                }
            return real_rename(path, target)

        def rmtree(path: Any, **options: Any) -> None:
            if own(path) and Path(path).exists():
                self("delete")
            real_rmtree(path, **options)

        def journal(own_journal: Journal, event: str, **values: Any) -> bool:
            try:
                self("journal")
            except OSError:
                return False
            return real_journal(own_journal, event, **values)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(storage, "open", open_, raising=False)
            patch.setattr(os, "fsync", fsync)
            patch.setattr(Path, "mkdir", mkdir)
            patch.setattr(Path, "rename", rename)
            patch.setattr(storage.shutil, "rmtree", rmtree)
            patch.setattr(Journal, "write", journal)
            yield self

    def lose(self, *, renames: bool) -> None:
        """What a power cut takes."""
        if renames:
            for old, new in reversed(self._unsynced_renames):
                if new.exists() and old.parent.exists():
                    new.rename(old)
        for path in self._unsynced_files:
            if path.exists():
                with open(path, "r+b") as file:
                    file.truncate(path.stat().st_size // 2)


class _File:
    """A file whose writing can fail half-way."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def writelines(self, pieces: Any) -> None:
        content = b"".join(pieces)
        self._file.write(content[: len(content) // 2])
        self._disk("write")
        self._file.write(content[len(content) // 2 :])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


OPERATIONS = 21
"""From the last step before the second checkpoint of a run to the first step after it."""


def arm_before_second_checkpoint(disk: Disk, operation: int, kind: str) -> Callable[[Any], None]:
    def on_step(report: Any) -> None:
        if report.step == 4:
            disk.operations.clear()
            disk.fail_at, disk.kind = operation, kind

    return on_step


def test_the_operations_of_a_checkpoint_are_those_that_are_broken_below(train: Callable[..., Any], disk: Disk) -> None:
    counts: list[int] = []

    def on_step(report: Any) -> None:
        if report.step == 4:
            disk.operations.clear()
        if report.step == 5:
            counts.append(len(disk.operations))

    with disk.watched():
        train(on_step=on_step)
    assert counts == [OPERATIONS], disk.operations[: counts[0]]
    assert {"create", "write", "sync file", "sync folder", "mkdir", "rename", "delete", "journal"} <= {
        *disk.operations[: counts[0]]
    }


@pytest.mark.parametrize("operation", range(1, OPERATIONS + 1))
def test_a_disk_that_is_full_from_any_moment_on(
    train: Callable[..., Any], undisturbed: dict[str, Any], disk: Disk, tmp_path: Path, operation: int
) -> None:
    """Training goes on and hands its LoRA over; only what can be done again is missing."""
    notes: list[str] = []
    with disk.watched():
        trained = train(on_step=arm_before_second_checkpoint(disk, operation, "full"), on_note=notes.append)
    assert len(trained.losses) == 6
    assert result(tmp_path)["step"] == 6 or any("the disk of" in note for note in notes)
    assert no_partial_files(tmp_path)
    train(resume=trained.run)
    assert result(tmp_path) == undisturbed


@pytest.mark.parametrize("renames", [False, True], ids=["renames kept", "renames lost"])
@pytest.mark.parametrize("operation", range(1, OPERATIONS + 1))
def test_a_power_cut_at_any_moment(
    train: Callable[..., Any], undisturbed: dict[str, Any], disk: Disk, tmp_path: Path, operation: int, renames: bool
) -> None:
    with disk.watched(), pytest.raises(PowerCut):
        train(on_step=arm_before_second_checkpoint(disk, operation, "cut"))
    disk.lose(renames=renames)
    assert no_partial_files(tmp_path)
    (run,) = runs_module.list_runs(tmp_path / "runs")
    train(resume=run)
    assert result(tmp_path) == undisturbed


def test_a_full_disk_at_the_end_of_a_cancelled_run(
    train: Callable[..., Any], undisturbed: dict[str, Any], disk: Disk, tmp_path: Path
) -> None:
    def on_step(report: Any) -> None:
        if report.step == 3:
            disk.fail_at, disk.kind = 1, "full"
            raise HardCancel

    notes: list[str] = []
    with disk.watched(), pytest.raises(HardCancel):
        train(on_step=on_step, on_note=notes.append)
    assert re.search(r"Stopped at step 3 of 6, of which 2 are saved\. .*disk .* full.*Its LoRA could not be", notes[-1])
    assert not any("goes on" in note for note in notes)
    train(resume="ideogram4_00001")
    assert result(tmp_path)["files"] == undisturbed["files"]


def test_a_disk_that_is_full_at_the_end_does_not_take_the_lora_away(
    train: Callable[..., Any], undisturbed: dict[str, Any], disk: Disk, tmp_path: Path
) -> None:
    def on_step(report: Any) -> None:
        if report.step == 5:
            disk.fail_at, disk.kind = 1, "full"

    notes: list[str] = []
    with disk.watched():
        trained = train(on_step=on_step, on_note=notes.append)
    assert len(trained.losses) == 6
    assert notes[-1].startswith("Training is complete, but ") and "before ComfyUI is closed" in notes[-1]
    assert "finished" not in [event["event"] for event in read_journal(tmp_path / "runs" / trained.run)]


def test_a_checkpoint_that_failed_is_tried_again_soon(
    train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """Not only when the next one is due, which may be hours later; and older ones are kept."""
    monkeypatch.setattr(saves, "RETRY_S", 0.0)
    saved: list[int] = []
    original = checkpoints.write_checkpoint

    def write(folder: Path, state: Any, facts: Any) -> Any:
        if state.step == 4 and not saved:
            saved.append(-1)
            raise OSError(errno.EACCES, "Permission denied")
        saved.append(state.step)
        return original(folder, state, facts)

    def as_storage_does(*args: Any) -> Any:
        try:
            return write(*args)
        except OSError as error:
            raise SaveFailed("no") from error

    monkeypatch.setattr(checkpoints, "write_checkpoint", as_storage_does)
    train(settings=dataclasses.replace(SETTINGS, checkpoint_every=4))
    assert saved == [-1, 4, 6], "a second attempt at once; this one was enough"


def test_a_disk_that_refuses_for_another_reason_costs_no_older_checkpoint(
    train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, checkpoint_every=1, keep_checkpoints=10)
    seen: list[int] = []

    def refuse(original: Any, *args: Any) -> Any:
        seen.append(len(checkpoints.list_checkpoints(args[0])))
        raise SaveFailed("refused") from OSError(errno.EACCES, "Permission denied")

    with fault(checkpoints, "write_checkpoint", refuse, at_call=4, times=2):
        train(settings=settings)
    assert seen == [4, 4]


def test_a_cancel_in_the_last_moment_still_leaves_a_lora(train: Callable[..., Any], tmp_path: Path) -> None:
    def press(report: Any) -> None:
        if report.step == report.steps:
            comfy.model_management.interrupt_current_processing()

    notes: list[str] = []
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(on_step=press, on_note=notes.append)
    assert "Stopped at step 6 of 6. The LoRA so far is ideogram4_00001_step_000006.safetensors" in notes[-1]


def test_a_checkpoint_that_cannot_be_read_at_the_moment_costs_nothing(
    train: Callable[..., Any], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """A hiccup of a network disk just when the run is cancelled must not make it look as if nothing had been done."""

    def press(report: Any) -> None:
        if report.step == 3:
            raise HardCancel

    def hiccup(original: Any, path: Path, flags: int) -> Any:
        if path.parent.name != "step_000000":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return original(path, flags)

    settings = dataclasses.replace(SETTINGS, keep_checkpoints=5)
    notes: list[str] = []
    with fault(checkpoints, "open_regular", hiccup, at_call=1, times=FOREVER), pytest.raises(HardCancel):
        train(settings=settings, on_step=press, on_note=notes.append)
    assert "Stopped at step 3 of 6, of which 0 are saved. The newest checkpoint cannot be read" in notes[-1]
    train(resume="ideogram4_00001")
    assert result(tmp_path) == undisturbed


def test_a_run_whose_disk_was_full_from_the_start_says_so(
    train: Callable[..., Any], disk: Disk, tmp_path: Path
) -> None:
    def on_step(report: Any) -> None:
        if report.step == 1:
            disk.fail_at, disk.kind = 1, "full"
        if report.step == 3:
            raise HardCancel

    notes: list[str] = []
    with disk.watched(), pytest.raises(HardCancel):
        train(on_step=on_step, on_note=notes.append)
    assert re.search(r"Stopped at step 3 of 6, of which 0 are saved\. .*full", notes[-1])
    assert runs_module.list_runs(tmp_path / "runs") == ["ideogram4_00001"]


def test_a_run_folder_that_is_deleted_while_it_is_trained_is_written_anew(
    train: Callable[..., Any], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    def delete(report: Any) -> None:
        if report.step == 3:
            shutil.rmtree(tmp_path / "runs" / "ideogram4_00001")

    notes: list[str] = []
    train(on_step=delete, on_note=notes.append)
    assert any("was deleted while it was trained" in note for note in notes)
    assert {**result(tmp_path), "journal": 0} == {**undisturbed, "journal": 0}


def test_the_lock_is_free_although_a_child_of_somebody_else_lives_on(tmp_path: Path) -> None:
    from ideogram4_lora_trainer.trainer_core.training.lock import RunLock

    lock = RunLock(tmp_path)
    child = os.fork()
    if not child:
        time.sleep(30)
        os._exit(0)
    try:
        lock.close()
        RunLock(tmp_path).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_an_error_while_stopping_does_not_hide_why_it_stopped(
    train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "save_partial_lora", raising(RuntimeError, "broken"))
    with fault(loop, "clip_gradients", raising(HardCancel), at_call=3), pytest.raises(HardCancel):
        train()


def test_every_user_error_keeps_its_code(train: Callable[..., Any]) -> None:
    """What is saved is added to the message; programs tell errors apart by their code."""
    with fault(loop, "clip_gradients", raising(NonFinite, "x"), at_call=2), pytest.raises(UserError) as caught:
        train()
    assert caught.value.code == "non_finite" and str(caught.value).startswith("x Stopped at step 1 of 6.")
