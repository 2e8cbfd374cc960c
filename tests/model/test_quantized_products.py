"""Products in the weights' own format: ComfyUI's own forward, errors within a stated tolerance, and exact elsewhere.

ComfyUI is told that the CPU is a card. fp8 and int8 products are then torch's own, over the numbers that a card would
multiply; for nvfp4, which no CPU has, the quantised operands are dequantised and multiplied.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch
from ideogram4_lora_trainer.trainer_core.model import host
from ideogram4_lora_trainer.trainer_core.model.frozen import FrozenLinear
from ideogram4_lora_trainer.trainer_core.model.quantized import (
    MAX_VELOCITY_ERROR,
    exact_products,
    use_quantized_products,
    velocity_error,
)
from networks import example, relative_error, snapshot, unchanged
from torch import Tensor

CPU = torch.device("cpu")
FORMATS = ("fp8_scaled", "int8_convrot", "nvfp4")
# The stated tolerance, 1 - cosine against exact products, of one product forward and backward.
PRODUCT = {"fp8_scaled": 6e-4, "int8": 1e-4, "int8_convrot": 1e-4, "nvfp4": 6e-3}
# And of a whole network: output, input gradient, adapter gradients on average, and the worst of them.
NETWORK = {
    "fp8_scaled": (1e-3, 2e-3, 1e-3, 5e-3),
    "int8_convrot": (1e-4, 3e-4, 1e-4, 5e-4),
    "nvfp4": (5e-3,) * 2 + (0.01, 0.03),
}


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    """What the benchmark of the same name measures with."""
    folder = str(Path(__file__).resolve().parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module("support.quantized")
    sys.path.remove(folder)


@pytest.fixture
def card(bench: ModuleType) -> Iterator[None]:
    with bench.pretended_card():
        yield


@pytest.fixture(scope="module")
def data(
    bench: ModuleType, tiny_models: Path, tiny_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Any]:
    """Three pictures of the kind that the tiny base was taught on, for the base in a format."""
    return functools.lru_cache(lambda fmt: bench.encoded(tiny_models, tmp_path_factory.mktemp(fmt), tiny_model(fmt)))


def values(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def able(layer: Any, dtype: torch.dtype = torch.float32) -> Any:
    return use_quantized_products(layer, CPU, dtype)


def both(layer: Any, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return layer.product(x), layer.input_gradient(grad)


# ---- one layer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("fmt", PRODUCT)
def test_both_products_of_a_layer_are_within_the_tolerance(
    bench: ModuleType, card: None, fmt: str, dtype: torch.dtype
) -> None:
    layer = bench.frozen_linear(fmt, 512, 256, CPU, dtype)
    # Tokens whose gradients differ as widely as those of text and image do.
    x, grad = (
        values(2, 33, 256, dtype=dtype),
        values(2, 33, 512, dtype=dtype, seed=1) * values(33, 1, dtype=dtype).exp(),
    )
    with torch.no_grad():
        weight = layer.weight.dequantize().float()
    exact = x.float() @ weight.T, grad.float() @ weight
    for found, wanted in zip(both(layer, x, grad), exact, strict=True):
        assert 1 - bench.cosine(found, wanted) < 1e-5
    used = able(layer, dtype)
    assert (used.forward, used.backward) == (1, 0 if fmt == "nvfp4" else 1)
    for found, wanted in zip(both(layer, x, grad), exact, strict=True):
        assert found.dtype == dtype and found.shape == wanted.shape and found.is_contiguous()
        assert 1 - bench.cosine(found, wanted) < PRODUCT[fmt]


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("fmt", PRODUCT)
def test_a_layer_computes_the_very_numbers_that_comfyui_samples_with(
    bench: ModuleType, card: None, fmt: str, dtype: torch.dtype
) -> None:
    layer = bench.frozen_linear(fmt, 48, 256, CPU, dtype)
    layer.base.bias = torch.nn.Parameter(values(48, dtype=dtype, seed=2), requires_grad=False)
    x = values(3, 17, 256, dtype=dtype)
    for scales in ({}, {"input_scale": torch.tensor(0.5), "pre_quant_scale": values(256).exp()}):
        for name, scale in scales.items():
            layer.base.register_parameter(name, torch.nn.Parameter(scale, requires_grad=False))
        assert able(layer, dtype).forward == 1
        with torch.inference_mode():
            sampled = layer.base(x)
        with torch.no_grad():
            assert torch.equal(layer.product(x), sampled)


def test_what_sampling_clamps_is_kept(bench: ModuleType, card: None) -> None:
    layer = bench.frozen_linear("fp8_scaled", 64, 64, CPU, torch.float32)
    x = values(8, 64) * 400
    with torch.no_grad():
        exact, sampled = layer.product(x), layer.base(x)
        able(layer)
        found = layer.product(x)
    assert relative_error(sampled, exact) > 0.1
    assert relative_error(found, exact) < 0.04


@pytest.mark.parametrize("fmt", ("fp8_scaled", "int8", "int8_convrot"))
def test_no_gradient_is_no_gradient_and_a_broken_one_stays_broken(bench: ModuleType, card: None, fmt: str) -> None:
    layer = bench.frozen_linear(fmt, 64, 256, CPU, torch.float32)
    assert able(layer).backward == 1
    grad = torch.zeros(4, 64)
    assert not layer.input_gradient(grad).any()
    grad[2, 3] = torch.nan
    assert not layer.input_gradient(grad)[2].isfinite().any()


def test_weights_that_were_fetched_ahead_are_used(bench: ModuleType, card: None) -> None:
    for fmt in PRODUCT:
        layer = bench.frozen_linear(fmt, 64, 256, CPU, torch.float32)
        able(layer)
        x, grad = values(5, 256), values(5, 64)
        here = both(layer, x, grad)
        layer.fetched = host.fetch_weight(layer.base, CPU, None)
        layer.base.weight = None
        assert all(torch.equal(a, b) for a, b in zip(here, both(layer, x, grad), strict=True))


# ---- where products stay exact -------------------------------------------------------------------------------


def full_precision(layer: Any) -> None:
    layer.base._full_precision_mm_config = layer.base._full_precision_mm = True


def patched(layer: Any) -> None:
    layer.base.weight_function = [lambda weight: 2 * weight]


@pytest.mark.parametrize(
    ("size", "change", "reason"),
    [
        ((64, 64), full_precision, "kept exact by the file"),
        ((64, 64), patched, "another LoRA"),
        ((24, 40), lambda layer: None, "multiples of 16"),
    ],
)
def test_exact_where_the_file_a_patch_or_the_size_asks_for_it(
    bench: ModuleType, card: None, size: tuple[int, int], change: Callable[[Any], None], reason: str
) -> None:
    layer = bench.frozen_linear("fp8_scaled", *size, CPU, torch.float32)
    change(layer)
    x, grad = values(5, size[1]), values(5, size[0])
    exact = both(layer, x, grad)
    used = able(layer)
    assert (used.forward, used.backward) == (0, 0) and reason in str(used)
    assert all(torch.equal(a, b) for a, b in zip(exact, both(layer, x, grad), strict=True))


@pytest.mark.parametrize("fmt", PRODUCT)
def test_a_patch_that_comes_later_is_not_lost(bench: ModuleType, card: None, fmt: str) -> None:
    """ComfyUI adds one to a layer that it moves off the device while a run goes on."""
    layer = bench.frozen_linear(fmt, 64, 256, CPU, torch.float32)
    able(layer)
    patched(layer)
    x, grad = values(5, 256), values(5, 64)
    with exact_products(layer):
        exact = both(layer, x, grad)
    assert layer.quantized_product is not None
    assert all(torch.equal(a, b) for a, b in zip(exact, both(layer, x, grad), strict=True))


@pytest.mark.parametrize("fmt", ("fp32", "bf16", *FORMATS))
def test_without_a_card_products_are_those_that_comfyui_samples_with_on_a_cpu(
    opened: Callable[..., Any], fmt: str
) -> None:
    with opened(fmt) as (patcher, network, _adapters):
        used = use_quantized_products(network.module, network.device, network.dtype)
        assert bool(used.forward) == (fmt == "int8_convrot")
        assert used.forward + sum(used.exact.values()) == len(linears(network))
        assert fmt in ("fp32", "bf16", "int8_convrot") or "on this device" in str(used)
        noised, sigma, text, _ = example(patcher.model.diffusion_model.input_proj.out_features)
        assert (velocity_error(network, noised, sigma, text, None) > 0) == (fmt == "int8_convrot")


@pytest.mark.parametrize("kernel", (None, lambda *_, out_dtype, **__: torch.zeros(33, 64, dtype=out_dtype)))
def test_a_kernel_that_is_missing_or_wrong_is_found_out_beforehand(bench: ModuleType, card: None, kernel: Any) -> None:
    import comfy_kitchen

    real = importlib.import_module("comfy_kitchen.backends.eager.quantization").scaled_mm_nvfp4
    layer = bench.frozen_linear("nvfp4", 64, 64, CPU, torch.float32)
    with mock.patch.object(comfy_kitchen, "scaled_mm_nvfp4", kernel or real):
        used = able(layer)
    assert not used.forward and ("wrong" if kernel else "without") + " nvfp4 products on this device" in str(used)


# ---- a network -----------------------------------------------------------------------------------------------


def linears(network: Any) -> list[Any]:
    return [module for module in network.module.modules() if isinstance(module, FrozenLinear)]


@pytest.mark.parametrize("fmt", FORMATS)
def test_output_and_gradients_of_a_network_are_within_the_tolerance(
    bench: ModuleType, card: None, tiny_model: Callable[..., Any], data: Callable[[str], Any], fmt: str
) -> None:
    found = bench.errors(tiny_model(fmt), data(fmt), {})
    assert all(0 < error < limit for error, limit in zip(found.values(), NETWORK[fmt], strict=True)), found


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_model_is_left_bit_identical_and_the_run_repeats(
    bench: ModuleType, card: None, tiny_model: Callable[..., Any], data: Callable[[str], Any], fmt: str
) -> None:
    patcher = tiny_model(fmt)
    with bench.opened(patcher, {}, quantized=False):
        pass
    before = snapshot(patcher)
    first, second = (bench.results(patcher, data(fmt), {}, quantized=True) for _ in range(2))
    assert unchanged(before, snapshot(patcher))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with bench.opened(patcher, {}, quantized=True) as (network, _, used):
        assert str(use_quantized_products(network.module, network.device, network.dtype)) == str(used)
        error = velocity_error(network, *next(bench.examples(data(fmt), network.device))[:3], None)
        assert 0 < error < MAX_VELOCITY_ERROR


def test_training_reaches_the_same_loss(
    bench: ModuleType, card: None, tiny_model: Callable[..., Any], data: Callable[[str], Any], tmp_path: Path
) -> None:
    """Noise is how far runs that differ in nothing but their seed end from each other."""

    def final_loss(fmt: str, *, seed: int = 0, steps: int = 200, quantized: bool = False) -> float:
        run = {"seed": seed, "steps": steps, "quantized": quantized}
        lora = bench.trained(patchers[fmt], data(fmt), tmp_path, **run)
        return bench.validation_loss(patchers[fmt], data(fmt), lora, quantized=False)

    patchers = {fmt: tiny_model(fmt) for fmt in ("fp8_scaled", "int8_convrot")}
    by_seed = [final_loss("fp8_scaled", seed=seed) for seed in range(3)]
    noise = max(by_seed) - min(by_seed)
    assert noise < 0.1 * (final_loss("fp8_scaled", steps=1) - by_seed[0])
    for fmt, exact in (("fp8_scaled", by_seed[0]), ("int8_convrot", final_loss("int8_convrot"))):
        assert abs(final_loss(fmt, quantized=True) - exact) < noise / 2, fmt
