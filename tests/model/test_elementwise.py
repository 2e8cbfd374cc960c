"""The cheap parts of a block: as ComfyUI computes them, nothing of them kept, and fused where a compiler is."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from ideogram4_lora_trainer.trainer_core.model import elementwise
from ideogram4_lora_trainer.trainer_core.model.elementwise import Elementwise, compiled, recomputed
from networks import example, relative_error
from torch import Tensor

WIDTH, HEAD = 64, 32
WHERE: dict[str, Any] = {
    "width": WIDTH,
    "head_width": HEAD,
    "device": torch.device("cpu"),
    "dtype": torch.bfloat16,
}


def inputs(name: str, tokens: int) -> tuple[Any, ...]:
    draw = torch.Generator().manual_seed(tokens)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw)

    x, scale, weight = random(1, tokens, WIDTH), random(1, 1, WIDTH), random(WIDTH)
    if name == "modulated":
        return x, scale, weight, 1e-5
    if name == "gated_sum":
        return x, random(1, tokens, WIDTH), scale, weight, 1e-5
    return x.view(1, tokens, WIDTH // HEAD, HEAD), random(1, tokens, 1, HEAD // 2, 2, 2), random(HEAD), 1e-5


def gradients(function: Callable[..., Tensor], arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    leaves = [a.clone().requires_grad_() if isinstance(a, Tensor) else a for a in arguments]
    out = function(*leaves)
    return out, *torch.autograd.grad(out.square().sum(), [a for a in leaves if isinstance(a, Tensor)])


@pytest.mark.parametrize("name", ["modulated", "gated_sum", "normed_and_rotated"])
def test_computing_again_gives_the_gradients_of_keeping(name: str) -> None:
    function = getattr(Elementwise(), name)
    kept = gradients(function, inputs(name, 9))
    again = gradients(lambda *arguments: recomputed(function, *arguments), inputs(name, 9))
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


def test_gradients_are_computed_only_where_they_are_needed() -> None:
    x, scale, weight, eps = inputs("modulated", 5)
    x.requires_grad_()
    recomputed(elementwise.modulated, x, scale, weight, eps).sum().backward()
    assert x.grad is not None and scale.grad is None and weight.grad is None


def test_a_block_is_comfyuis_own_bit_for_bit(opened: Callable[..., Any]) -> None:
    """ComfyUI's block over the same weights, with its own attention and rotary embedding."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any], Tensor]] = []
    with opened("fp32") as (patcher, network, _adapters):
        noised, sigma, text, _ = example(patcher.model.diffusion_model.input_proj.out_features)
        network.module.layers[1].register_forward_hook(
            lambda _module, args, options, out: seen.append((args, options, out)), with_kwargs=True
        )
        with torch.no_grad():
            network.velocity(noised, sigma, text, None)
            args, options, ours = seen[0]
            theirs = patcher.model.diffusion_model.layers[1](*args, **options)
    assert torch.equal(ours, theirs)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_parts_give_the_same_up_to_rounding() -> None:
    failures: list[str] = []
    fused = compiled(failures.append, **{**WHERE, "dtype": torch.float32})
    assert not failures
    for name in ("modulated", "gated_sum", "normed_and_rotated"):
        for tokens in (9, 21):
            plain = gradients(getattr(Elementwise(), name), inputs(name, tokens))
            function = getattr(fused, name)
            assert function is not getattr(Elementwise(), name)
            again = gradients(lambda *a, f=function: recomputed(f, *a), inputs(name, tokens))
            assert max(relative_error(b, a) for a, b in zip(plain, again, strict=True)) < 1e-5


@pytest.mark.parametrize("when", ["at once", "when it is tried", "later"])
def test_a_compiler_that_fails_costs_a_sentence(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def compile_(function: Any, **_options: Any) -> Any:
        if when == "at once":
            raise RuntimeError("no compiler\nwith details")

        def run(*arguments: Any) -> Tensor:
            if when == "when it is tried" or arguments[0].shape[1] > 100:
                raise RuntimeError("no compiler\nwith details")
            return function(*arguments)

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    failures: list[str] = []
    functions = compiled(failures.append, **WHERE)
    for name in ("modulated", "gated_sum", "normed_and_rotated"):
        plain, arguments = getattr(Elementwise(), name), inputs(name, 200)
        assert torch.equal(getattr(functions, name)(*arguments), plain(*arguments))
    assert failures == ["RuntimeError: no compiler"]


def test_what_fails_in_another_thread_is_told_in_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the backward pass on a GPU, where the run's log is another thread's."""

    def compile_(function: Any, **_options: Any) -> Any:
        def run(*arguments: Any) -> Tensor:
            if arguments[0].shape[1] > 100:
                raise RuntimeError("no compiler")
            return function(*arguments)

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    told: list[tuple[str, int]] = []
    functions = compiled(lambda reason: told.append((reason, threading.get_ident())), **WHERE)
    with ThreadPoolExecutor(1) as other:
        out = other.submit(functions.modulated, *inputs("modulated", 200)).result()
    assert torch.equal(out, elementwise.modulated(*inputs("modulated", 200))) and not told
    for _ in range(2):
        functions.modulated(*inputs("modulated", 9))
    assert told == [("RuntimeError: no compiler", threading.get_ident())]


def test_out_of_memory_is_no_failure_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "compile", lambda _function, **_options: full)
    with pytest.raises(torch.OutOfMemoryError):
        compiled(pytest.fail, **WHERE)
