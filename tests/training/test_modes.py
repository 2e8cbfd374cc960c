"""Memory modes: the same numbers in each, what each holds, and what happens when one is cancelled or does not fit."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
import torch
from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.model import host, stack
from ideogram4_lora_trainer.trainer_core.training import loop, outcomes
from ideogram4_lora_trainer.trainer_core.training.journal import read_journal
from ideogram4_lora_trainer.trainer_core.training.optimizer import OffloadedAdamW, make_optimizer
from networks import FORMATS, place_under, snapshot, training_data, unchanged
from torch.utils._python_dispatch import TorchDispatchMode

SETTINGS = TrainSettings(steps=20, rank=2, learning_rate=1e-3, warmup_steps=0, gradient_accumulation=2)
MODES = ("resident", "offloaded", "streamed")
BLOCKS = 2


@pytest.fixture(scope="module")
def patchers(tiny_model: Callable[..., Any]) -> Callable[[str], Any]:
    loaded: dict[str, Any] = {}

    def get(fmt: str) -> Any:
        if fmt not in loaded:
            loaded[fmt] = tiny_model(fmt)
        return loaded[fmt]

    return get


@pytest.fixture
def train(patchers: Callable[[str], Any], tmp_path: Path) -> Callable[..., Any]:
    """`train("fp8_scaled", memory_mode="streamed")`; each run in a folder of its own."""
    count = 0

    def run(fmt: str = "bf16", *, on_step: Any = lambda report: None, place: Any = None, **options: Any) -> Any:
        nonlocal count
        count += 1
        data = training_data(tmp_path / "cache", patchers(fmt), count=5, size=(64, 64), lengths=(5, 9, 7))
        settings = dataclasses.replace(SETTINGS, **options)
        place = place or place_under(tmp_path / str(count))
        with torch.inference_mode():
            return loop.train(patchers(fmt), data, settings, place, on_step=on_step)

    return run


@contextlib.contextmanager
def weights_elsewhere() -> Iterator[dict[str, Any]]:
    """Let no weight of a block be on the device, so that each is fetched; what was fetched is counted."""
    seen: dict[str, Any] = {"fetched": 0, "most": 0}
    original = stack.BlockWeights.brought

    @contextlib.contextmanager
    def brought(self: Any, index: int, then: int) -> Iterator[None]:
        with original(self, index, then):
            assert all(layer.fetched for layer in self._layers[index])
            yield
        there = sum(any(layer.fetched for layer in layers) for layers in self._layers)
        seen["most"] = max(seen["most"], there)

    def fetch(module: Any, device: torch.device, stream: Any) -> Any:
        seen["fetched"] += 1
        return fetch_weight(module, device, stream)

    fetch_weight = host.fetch_weight
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "is_elsewhere", lambda _module, _device: True)
        patch.setattr(host, "fetch_weight", fetch)
        patch.setattr(stack.BlockWeights, "brought", brought)
        yield seen


def same(a: Any, b: Any) -> bool:
    weights = all(
        torch.equal(a.modules[path].up, b.modules[path].up) and torch.equal(a.modules[path].down, b.modules[path].down)
        for path in a.modules
    )
    return weights and a.losses == b.losses


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_mode_gives_the_same_numbers(train: Callable[..., Any], fmt: str) -> None:
    kept = train(fmt, memory_mode="resident", gradient_checkpointing=False)
    assert len(set(kept.losses)) == SETTINGS.steps
    assert same(kept, train(fmt, memory_mode="offloaded"))
    with weights_elsewhere() as seen:
        assert same(kept, train(fmt, memory_mode="streamed"))
    assert seen["fetched"]


def test_each_part_of_the_stack_gives_the_same_numbers(train: Callable[..., Any]) -> None:
    """As many blocks kept as you like, inputs here or there."""
    from ideogram4_lora_trainer.trainer_core.model.network import Network

    expected = train(steps=4)
    arrange = Network.arrange
    for kept in range(BLOCKS + 1):
        for offload in (False, True):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    Network,
                    "arrange",
                    lambda self, k=kept, o=offload, **_: arrange(self, kept_blocks=k, offload_inputs=o),
                )
                assert same(expected, train(steps=4)), (kept, offload)


def test_a_step_fetches_each_block_twice_and_never_holds_more_than_two(
    tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    """Once forwards and once backwards; the last block of the one is the first of the other."""
    from comfy_ideogram4 import tiny_comfy_model

    patcher, blocks = tiny_comfy_model(num_layers=5), 5
    data = training_data(tmp_path / "cache", patcher, count=2, size=(64, 64))
    fetched: list[int] = []
    settings = dataclasses.replace(SETTINGS, steps=4, gradient_accumulation=1, memory_mode="streamed")
    with weights_elsewhere() as seen, torch.inference_mode():
        loop.train(
            patcher, data, settings, place_under(tmp_path), on_step=lambda _report: fetched.append(seen["fetched"])
        )
    per_step = {after - before for before, after in itertools.pairwise(fetched)}
    linears = 6  # five that are adapted, and the modulation
    # Both turning points keep their block: 2 x 5, less the last and the first.
    assert per_step == {(2 * blocks - 2) * linears}
    assert seen["most"] == 2


@pytest.mark.parametrize("mode", MODES)
def test_cancelled_in_a_block_and_resumed(
    train: Callable[..., Any], patchers: Callable[[str], Any], tmp_path: Path, mode: str
) -> None:
    """Comes in the middle of a backward pass; ComfyUI is left as it was, and the run ends as if nothing had been."""
    expected = train(memory_mode=mode, steps=6)
    before, calls = snapshot(patchers("bf16")), 0
    brought = stack.BlockWeights.brought

    def press(self: Any, index: int, then: int) -> Any:
        nonlocal calls
        calls += 1
        if calls == 60 and then < index:
            comfy.model_management.interrupt_current_processing()
        elif calls == 60:
            calls -= 1  # wait for a backward pass
        return brought(self, index, then)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stack.BlockWeights, "brought", press)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            train(memory_mode=mode, steps=6, place=place_under(tmp_path / "cancelled"))
    assert unchanged(before, snapshot(patchers("bf16")))
    (run,) = (path.name for path in (tmp_path / "cancelled" / "runs").iterdir() if path.is_dir())
    resumed = train(memory_mode=mode, steps=6, place=place_under(tmp_path / "cancelled", resume=run))
    assert same(expected, resumed)


@pytest.mark.parametrize("mode", MODES)
def test_out_of_memory_in_a_block_steps_down(train: Callable[..., Any], mode: str, tmp_path: Path) -> None:
    expected = train(memory_mode=mode, steps=6)
    fed, calls = torch.nn.functional.silu, 0

    def full(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        # In every mode but the last, which has to fit.
        if calls in (40, 80, 120)[: len(MODES) - MODES.index(mode) - 1]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return fed(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "silu", full)
        trained = train(memory_mode=mode, steps=6, place=place_under(tmp_path / "short"))
    assert same(expected, trained)


def test_the_journal_tells_the_plan(train: Callable[..., Any], tmp_path: Path) -> None:
    train(steps=2, memory_mode="offloaded", place=place_under(tmp_path / "told"))
    (run,) = (tmp_path / "told" / "runs").iterdir()
    (told,) = (event for event in read_journal(run) if event["event"] == "memory")
    assert told["plan"].startswith("offloaded, 2 of 2 blocks recomputed") and told["predicted_bytes"] > 0


# ---- losses that are read later --------------------------------------------------------------------------------


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: the loss of a step is read when the next has been handed over."""
    make = outcomes.Outcomes.__init__

    def with_lag(self: Any, device: torch.device) -> None:
        make(self, device)
        self.lag = 1

    monkeypatch.setattr(outcomes.Outcomes, "__init__", with_lag)


class HostReads(TorchDispatchMode):
    """Operations whose result Python looks at, for which it would have to wait for a GPU."""

    NAMES = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "item")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.lstrip("_")
        if any(name.startswith(read.lstrip("_")) for read in self.NAMES):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", MODES)
def test_between_two_steps_python_looks_at_nothing(train: Callable[..., Any], mode: str) -> None:
    reads = HostReads()
    started: list[int] = []

    def on_step(report: Any) -> None:
        if report.step == 1:
            started.append(len(reads.seen))
        if report.step == 5:
            started.append(len(reads.seen))

    with reads:
        torch.ones(1).item()
        train(steps=6, memory_mode=mode, on_step=on_step)
    assert reads.seen[0] == "local_scalar_dense", "the counter does not see what it should"
    assert started[0] == started[1], reads.seen[started[0] : started[1]]


@pytest.mark.usefixtures("late")
def test_reports_come_late_but_in_order_and_all(train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    done, reported = [0], []
    step = torch.optim.AdamW.step

    def counted(self: Any) -> None:
        done[0] += 1
        step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    train(steps=6, on_step=lambda report: reported.append((report.step, done[0])))
    assert reported == [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 6)]


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("every", [0, 2])
def test_a_run_that_reads_late_is_resumed_exactly(train: Callable[..., Any], tmp_path: Path, every: int) -> None:
    expected = train(steps=8)

    class Stop(BaseException):
        pass

    for stop in range(1, 8):

        def press(report: Any, at: int = stop) -> None:
            if report.step == at:
                raise Stop

        folder = tmp_path / f"stop{stop}"
        with pytest.raises(Stop):
            train(steps=8, checkpoint_every=every, place=place_under(folder), on_step=press)
        (run,) = (path.name for path in (folder / "runs").iterdir() if path.is_dir())
        journal = [e["step"] for e in read_journal(folder / "runs" / run) if e["event"] == "step"]
        assert journal == list(range(1, len(journal) + 1)) and len(journal) in (stop, stop + 1)
        place = place_under(folder, resume=run)
        assert same(expected, train(steps=8, checkpoint_every=every, place=place)), stop


# ---- the optimiser -----------------------------------------------------------------------------------------------


def test_moments_in_main_memory_give_the_same_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    from ideogram4_lora_trainer.trainer_core.training import optimizer as module

    monkeypatch.setattr(module, "_PART_VALUES", 50)
    draw = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=draw) for shape in ((4, 8), (8, 4), (3, 3), (100,))]

    def updated(*, offload: bool) -> list[torch.Tensor]:
        own = torch.Generator().manual_seed(1)
        parameters = [torch.nn.Parameter(tensor.clone()) for tensor in start]
        optimizer = make_optimizer(parameters, weight_decay=0.1, offload=offload)
        for step in range(5):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=own)
            module.update(optimizer, rate=0.01, skip=torch.tensor(float(step == 2)))
        return [parameter.detach() for parameter in parameters]

    plain, offloaded = updated(offload=False), updated(offload=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, offloaded, strict=True))
    assert isinstance(make_optimizer([torch.nn.Parameter(start[0])], weight_decay=0.0, offload=True), OffloadedAdamW)


def test_an_update_that_is_skipped_changes_nothing() -> None:
    from ideogram4_lora_trainer.trainer_core.training.optimizer import update

    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = make_optimizer([parameter], weight_decay=0.1, offload=False)
    parameter.grad = torch.tensor([1.0, float("nan"), 2.0])
    update(optimizer, rate=0.1, skip=torch.tensor(1.0))
    assert torch.equal(parameter.detach(), torch.ones(3))


# ---- quantised products ------------------------------------------------------------------------------------------


def test_quantised_products_are_used_where_asked_for_and_told(train: Callable[..., Any], tmp_path: Path) -> None:
    """int8 is multiplied on a CPU too, by ComfyUI itself."""

    def notes(name: str) -> str:
        (run,) = (tmp_path / name / "runs").iterdir()
        return " ".join(event["text"] for event in read_journal(run) if event["event"] == "note")

    exact = train("int8_convrot", steps=3)
    quantised = train("int8_convrot", steps=3, quantized_products=True, place=place_under(tmp_path / "quantised"))
    assert "layers multiply in their weight's own format, forward and backward" in notes("quantised")
    assert exact.losses != quantised.losses
    assert quantised.losses == pytest.approx(exact.losses, rel=0.02)
    same_as_exact = train("bf16", steps=3, quantized_products=True, place=place_under(tmp_path / "none"))
    assert "All products are exact" in notes("none")
    assert same(train("bf16", steps=3), same_as_exact)


def test_quantised_products_that_are_too_far_off_are_given_up(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ideogram4_lora_trainer.trainer_core.training import self_check

    monkeypatch.setattr(self_check, "MAX_VELOCITY_ERROR", 1e-9)
    place = place_under(tmp_path / "given up")
    given_up = train("int8_convrot", steps=3, quantized_products=True, place=place)
    assert same(train("int8_convrot", steps=3), given_up)
    (run,) = (tmp_path / "given up" / "runs").iterdir()
    assert any("too far for training, so products are exact" in str(event) for event in read_journal(run))
