"""Giving the model to ComfyUI for a while and taking it back: how much room is asked for, and what is loaded anew."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import pytest
import torch
from ideogram4_lora_trainer.trainer_core.model import host
from ideogram4_lora_trainer.trainer_core.model.memory import MemoryMode
from ideogram4_lora_trainer.trainer_core.model.network import open_network
from ideogram4_lora_trainer.trainer_core.model.usage import DeviceUsage

LEAVE = 1000


def plan(mode: MemoryMode) -> Any:
    return SimpleNamespace(mode=mode, leave_bytes=lambda _total: LEAVE)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Room that ComfyUI was asked to leave, and "unload", in their order."""
    asked: list[Any] = []
    load, unload = host.load_on_device, host.unload

    def loading(patcher: Any, memory_bytes: int) -> None:
        asked.append(memory_bytes)
        load(patcher, 0)

    def unloading(patcher: Any) -> None:
        asked.append("unload")
        unload(patcher)

    monkeypatch.setattr(host, "load_on_device", loading)
    monkeypatch.setattr(host, "unload", unloading)
    return asked


def test_room_is_asked_for_what_the_run_does_not_hold_yet(
    tiny_model: Callable[..., Any], asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DeviceUsage, "now", lambda _self: 300)
    with torch.inference_mode(), open_network(tiny_model("bf16"), plan(MemoryMode.RESIDENT)) as network:
        for again in (True, True, False):
            with network.lent(again):
                assert torch.is_inference_mode_enabled() and not comfy.model_management.in_training
            assert not torch.is_inference_mode_enabled() and comfy.model_management.in_training
    assert asked == [LEAVE, LEAVE - 300, LEAVE - 300], "and nothing is loaded that is not needed again"


def test_what_the_run_holds_may_be_more_than_was_planned(
    tiny_model: Callable[..., Any], asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DeviceUsage, "now", lambda _self: 2 * LEAVE)
    patcher = tiny_model("bf16")
    with torch.inference_mode(), open_network(patcher, plan(MemoryMode.RESIDENT)) as network, network.lent(True):
        pass
    assert asked == [LEAVE, 0]


@pytest.mark.parametrize("mode", list(MemoryMode))
def test_a_streamed_model_leaves_the_device_first_unless_comfyui_moves_it_by_itself(
    tiny_model: Callable[..., Any], asked: list[Any], monkeypatch: pytest.MonkeyPatch, mode: MemoryMode
) -> None:
    patcher = tiny_model("bf16")
    expected = ["unload", LEAVE] if mode is MemoryMode.STREAMED else [LEAVE]
    with torch.inference_mode(), open_network(patcher, plan(mode)) as network, network.lent(True):
        pass
    assert asked == expected * 2
    asked.clear()
    monkeypatch.setattr(patcher, "is_dynamic", lambda: True)
    with torch.inference_mode(), open_network(patcher, plan(mode)):
        pass
    assert asked == [LEAVE]


def test_a_partly_loaded_model_is_loaded_anew_and_its_weights_pinned_again(
    tiny_model: Callable[..., Any], asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampling ends with clones that are collected, and each takes the pins of all."""
    patcher = tiny_model("bf16")
    monkeypatch.setattr(comfy.model_management, "pin_memory", lambda _tensor: True)
    monkeypatch.setattr(comfy.model_management, "unpin_memory", lambda _tensor: True)

    def partly() -> None:
        with torch.inference_mode():
            patcher.load(torch.device("cpu"), lowvram_model_memory=1)

    with torch.inference_mode(), open_network(patcher, plan(MemoryMode.RESIDENT)) as network:
        with network.lent(True):
            host.unload(patcher)
            comfy.model_management.load_models_gpu([patcher])
            patcher.detach()
            partly()
            pinned = set(patcher.pinned)
            clone = patcher.clone()
            del clone
            assert pinned and not patcher.pinned
            partly()
            assert host.is_partly_loaded(patcher)
            asked.clear()
            monkeypatch.setattr(host, "load_on_device", lambda _patcher, _bytes: partly())
        assert asked == ["unload"]
        assert patcher.pinned == pinned
    monkeypatch.undo()
    with torch.inference_mode():
        host.unload(patcher)


# ---- what is counted -------------------------------------------------------------------------------------------


class Card:
    """torch's counters of a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allocated = self.highest = 0
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: self.allocated)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: self.highest)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _device: self.reset())

    def reset(self) -> None:
        self.highest = self.allocated

    def move(self, *amounts: int) -> None:
        for amount in amounts:
            self.allocated += amount
            self.highest = max(self.highest, self.allocated)


def test_the_peak_is_that_of_training_and_not_of_previews(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch)
    card.move(900, -200)
    usage = DeviceUsage(torch.device("cuda", 0))
    assert (usage.now(), usage.peak()) == (0, 0)
    card.move(30, 20, -20)
    assert (usage.now(), usage.peak()) == (30, 50)
    with usage.aside() as own:
        assert own == 30
        card.move(-700, 5000, -5000, 600)
    assert (usage.now(), usage.peak()) == (30, 50), "and the model may be back in part only"
    card.move(10, -10)
    assert usage.peak() == 50
    card.move(25, -25)
    assert usage.peak() == 55


def test_nothing_is_counted_where_torch_does_not_count() -> None:
    usage = DeviceUsage(torch.device("cpu"))
    with usage.aside() as own:
        assert own == usage.peak() == 0
