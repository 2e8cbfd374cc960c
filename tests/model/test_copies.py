"""Copies beside the computation: what waits for what, what is kept until when, and on which device.

The streams are stand-ins that write down what they are told; the order is what a GPU would keep to.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import pytest
import torch
from comfy.quant_ops import QuantizedTensor
from ideogram4_lora_trainer.trainer_core.model import copies, host
from ideogram4_lora_trainer.trainer_core.model.frozen import FrozenLinear
from ideogram4_lora_trainer.trainer_core.model.stack import BlockWeights, HostInputs
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")
CARDS = [torch.device("cuda", index) for index in (0, 1)]


class Stream:
    """Writes down what it waits for, and when something is done on it."""

    def __init__(self, name: str, told: list[str]) -> None:
        self._name, self._told = name, told

    def wait_stream(self, other: Stream) -> None:
        self._told.append(f"{self._name} waits for {other._name}")

    @contextmanager
    def as_context(self, _stream: Stream) -> Iterator[None]:
        self._told.append(f"copy on {self._name}")
        yield


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the streams were told, one after the other."""
    told: list[str] = []
    monkeypatch.setattr(copies, "_computation", lambda _device: Stream("computation", told))
    monkeypatch.setattr(copies, "copy_stream", lambda _device, purpose: Stream(purpose, told))
    return told


# ---- the order of things ---------------------------------------------------------------------------------------


def test_the_next_block_is_fetched_when_the_work_of_this_one_is_handed_over(
    told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To begin with a copy may block Python, and a device that was handed nothing idles meanwhile."""
    bases = [SimpleNamespace(in_features=1, out_features=1, index=index) for index in range(3)]
    monkeypatch.setattr(host, "is_elsewhere", lambda _module, _device: True)
    monkeypatch.setattr(host, "fetch_weight", lambda module, _device, _stream: told.append(f"fetch {module.index}"))
    weights = BlockWeights([nn.ModuleList([FrozenLinear(base)]) for base in bases], CPU)
    for index, then in ((0, 1), (1, 2), (2, 3), (2, 1), (1, 0), (0, -1), (0, 1)):
        with weights.brought(index, then):
            told.append(f"block {index}")
    use = "computation waits for weights"
    # A block's memory is free for the one after the next when the work with it is done, and no later.
    free = "weights waits for computation"
    assert told == [
        *("fetch 0", use, "block 0", "fetch 1"),
        *(free, use, "block 1", "fetch 2"),
        *(free, use, "block 2"),
        *(use, "block 2", "fetch 1"),
        *(free, use, "block 1", "fetch 0"),
        *(free, use, "block 0"),
        *(use, "block 0", "fetch 1"),
    ]


def test_an_input_on_its_way_out_is_kept_until_the_computation_waits_for_the_copy(told: list[str]) -> None:
    inputs = HostInputs(CPU)
    held: list[weakref.ref[Any]] = []

    def put(index: int) -> None:
        h = torch.full((2, 3), float(index))
        held.append(weakref.ref(h))
        weakref.finalize(h, told.append, f"input {index} is gone")
        inputs.put(index, h)

    for index in range(3):
        put(index)
        assert [ref() is not None for ref in held] == [False] * index + [True], "one is kept, and no more"
    out = ["inputs waits for computation", "copy on inputs"]
    let_go = "computation waits for inputs"
    assert told == [*out, let_go, "input 0 is gone", *out, let_go, "input 1 is gone", *out]
    told.clear()
    for index in (2, 1, 0):
        assert torch.equal(inputs.take(index, then=index - 1), torch.full((2, 3), float(index)))
    # Before anything is allocated for those that come back.
    assert told[:3] == [let_go, "input 2 is gone", "inputs waits for computation"]
    assert told.count(let_go) == 4


def test_streams_are_those_of_the_models_own_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not of the current one, which ComfyUI's own helper goes by."""
    told: list[str] = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=CARDS[0]: Stream(f"card {device.index}", told))
    side = Stream("side", told)
    copies.join(CARDS[1], side)
    copies.await_computation(CARDS[1], side)
    copies.join(CARDS[1], None)
    assert told == ["card 1 waits for side", "side waits for card 1"]


def test_the_models_card_is_the_current_one_while_it_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    @contextmanager
    def current(device: torch.device) -> Iterator[None]:
        told.append(f"enter {device}")
        yield
        told.append(f"leave {device}")

    monkeypatch.setattr(torch.cuda, "device", current)
    with host.training_mode(CARDS[1]):
        told.append("train")
    with host.training_mode(CPU):
        pass
    assert told == ["enter cuda:1", "train", "leave cuda:1"]


def test_a_model_is_unloaded_from_whichever_card_it_is_on(
    tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda: CARDS)
    monkeypatch.setattr(comfy.model_management, "free_memory", lambda _amount, device, _keep: asked.append(device))
    host.unload(tiny_model("bf16"))
    assert asked == CARDS


# ---- what is copied --------------------------------------------------------------------------------------------


class Copies(TorchDispatchMode):
    """Whether each copy blocks Python."""

    def __init__(self) -> None:
        super().__init__()
        self.blocking: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in ("copy_", "_to_copy"):
            assert not any(isinstance(a, QuantizedTensor) for a in args), "inside, it would copy as it likes"
            non_blocking = args[2] if name == "copy_" and len(args) > 2 else kwargs.get("non_blocking", False)
            self.blocking.append(not non_blocking)
        return func(*args, **kwargs)


@pytest.mark.parametrize("fmt", ["bf16", "fp8_scaled", "nvfp4", "int8_convrot"])
def test_no_part_of_a_weight_is_waited_for_and_all_arrive(tiny_model: Callable[..., Any], fmt: str) -> None:
    layer = tiny_model(fmt).model.diffusion_model.layers[0].attention.qkv
    parts = len(layer.weight.params._tensor_fields()) if isinstance(layer.weight, QuantizedTensor) else 0
    with Copies() as seen:
        fetched = host.fetch_weight(layer, torch.device("meta"), None)
    assert seen.blocking == [False] * (1 + parts)
    assert fetched.weight.device.type == "meta" and fetched.weight.shape == layer.weight.shape
    if parts:
        assert fetched.weight._qdata.device.type == fetched.weight.params.scale.device.type == "meta"

    here = host.fetch_weight(layer, CPU, None)
    assert type(here.weight) is type(layer.weight) or not parts
    assert here.weight.dtype == layer.weight.dtype and here.weight.data_ptr() != layer.weight.data_ptr()
    with (
        host.cast_weights(layer, CPU, torch.float32) as (stored, _),
        host.cast_weights(layer, CPU, torch.float32, here) as (copied, _),
    ):
        assert torch.equal(stored, copied)


def test_the_smoothing_of_a_layer_is_copied_once() -> None:
    scale = torch.rand(8)
    layer = FrozenLinear(SimpleNamespace(in_features=8, out_features=8, pre_quant_scale=scale))
    x = torch.randn(3, 8, dtype=torch.bfloat16)
    with Copies() as seen:
        first, second = layer.smoothed(x), layer.smoothed(x)
    assert len(seen.blocking) == 1
    assert torch.equal(first, x * scale.bfloat16()) and torch.equal(first, second)
    assert torch.equal(layer.smoothed(x.float()), x.float() * scale), "in the precision of what it is applied to"


# ---- when memory is short --------------------------------------------------------------------------------------


def test_main_memory_that_cannot_be_pinned_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    empty, cleared = torch.empty, []

    def full(*args: Any, pin_memory: bool = False, **options: Any) -> Any:
        if pin_memory:
            raise torch.AcceleratorError("CUDA error: out of memory")
        return empty(*args, **options)

    monkeypatch.setattr(torch, "empty", full)
    monkeypatch.setattr(comfy.model_management, "discard_cuda_async_error", lambda: cleared.append(True))
    memory = copies.pinned(5, torch.bfloat16, CARDS[0])
    assert (memory.shape, memory.dtype, memory.device) == ((5,), torch.bfloat16, CPU)
    assert cleared == [True], "or the next kernel would raise it again"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (ValueError("STATUS_ALLOC_FAILED"), False),
    ],
)
def test_every_library_has_its_own_words_for_no_room(error: Exception, expected: bool) -> None:
    assert host.is_out_of_memory(error) is expected


def test_models_that_are_gone_hold_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI leaves them in its list for a while."""
    loaded = [
        SimpleNamespace(device=CPU, model=None, model_loaded_memory=lambda: pytest.fail("there is no model")),
        SimpleNamespace(device=CPU, model=object(), model_loaded_memory=lambda: 1000),
        SimpleNamespace(device=CARDS[0], model=object(), model_loaded_memory=lambda: 10**6),
    ]
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda _device: 10**9)
    monkeypatch.setattr(comfy.model_management, "extra_reserved_memory", lambda: 0)
    monkeypatch.setattr(comfy.model_management, "current_loaded_models", loaded)
    assert host.usable_memory(CPU) == 10**9 + 1000
