"""A LoRA as it is sampled equals the LoRA as it was trained: strength, both modes, stacking, and leaving no trace."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ideogram4_lora_trainer.trainer_core.errors import LoraMismatch
from ideogram4_lora_trainer.trainer_core.lora_files import LoraWeights
from ideogram4_lora_trainer.trainer_core.model.apply import apply_lora, is_quantized
from ideogram4_lora_trainer.trainer_core.training.loop import trained_weights
from networks import FORMATS, example, fill_up, relative_error
from torch import Tensor


def sampled(patcher: Any, noised: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
    """The velocity that ComfyUI's sampler sees: its loading, its wrappers, its own forward."""
    import comfy.model_management

    with torch.inference_mode():
        comfy.model_management.load_models_gpu([patcher])
        patcher.pre_run()
        try:
            denoised = patcher.model.apply_model(noised, sigma, c_crossattn=text)
        finally:
            patcher.cleanup()
        return (noised - denoised) / sigma.view(-1, 1, 1, 1)


@pytest.fixture
def case(opened: Callable[..., Any]) -> Callable[..., Any]:
    """`case(fmt)` -> (patcher, inputs with raw text features, LoRA modules, velocity as trained)."""
    from ideogram4_lora_trainer.trainer_core.model.network import project_text, text_width

    def make(fmt: str, **options: Any) -> Any:
        with opened(fmt, **options) as (patcher, network, adapters):
            fill_up(adapters, scale=0.1)
            features = torch.randn(1, 7, text_width(patcher), generator=torch.Generator().manual_seed(8))
            noised, sigma, _, _ = example(patcher.model.diffusion_model.input_proj.out_features)
            with torch.no_grad():
                trained = network.velocity(noised, sigma, project_text(patcher, features), None)
            return patcher, (noised, sigma, features), trained_weights(adapters), trained

    return make


@pytest.mark.parametrize("rank_stabilized", [False, True])
@pytest.mark.parametrize(("fmt", "bypass"), [*((fmt, True) for fmt in FORMATS), ("fp32", False), ("bf16", False)])
def test_sampling_with_the_lora_is_what_was_trained(
    case: Callable[..., Any], fmt: str, bypass: bool, rank_stabilized: bool
) -> None:
    patcher, inputs, modules, trained = case(fmt, rank_stabilized=rank_stabilized, train_modulation=True)
    base = sampled(patcher, *inputs)
    applied = apply_lora(patcher, modules, strength=1.0, bypass=bypass)
    # Merging rounds the sum to a bf16 base's dtype; sampling rounds the inputs of an int8 base's layers.
    tolerance = 1e-2 if (fmt, bypass) in (("bf16", False), ("int8_convrot", True)) else 1e-4
    assert relative_error(base, trained) > 0.05
    assert relative_error(sampled(applied, *inputs), trained) < tolerance


def test_merging_on_a_quantised_base_loses_what_bypass_keeps(case: Callable[..., Any]) -> None:
    patcher, inputs, modules, trained = case("nvfp4")
    merged = sampled(apply_lora(patcher, modules, strength=1.0, bypass=False), *inputs)
    assert relative_error(merged, trained) > 0.02


def test_strength_scales_and_loras_stack_in_any_number(case: Callable[..., Any]) -> None:
    patcher, inputs, modules, trained = case("fp8_scaled")
    base = sampled(patcher, *inputs)
    halves = apply_lora(patcher, modules, strength=0.5, bypass=True)
    halves = apply_lora(halves, modules, strength=1.5, bypass=True)
    third = apply_lora(halves, modules, strength=-1.0, bypass=True)
    none = apply_lora(third, modules, strength=-1.0, bypass=True)
    assert relative_error(sampled(third, *inputs), trained) < 1e-4
    assert relative_error(sampled(none, *inputs), base) < 1e-4
    assert relative_error(sampled(halves, *inputs), trained) > 0.02


def test_the_base_is_itself_again_after_sampling_with_a_lora(case: Callable[..., Any]) -> None:
    patcher, inputs, modules, _ = case("int8_convrot")
    base = sampled(patcher, *inputs)
    applied = apply_lora(apply_lora(patcher, modules, strength=1.0, bypass=True), modules, strength=1.0, bypass=True)
    for _ in range(2):
        assert relative_error(sampled(applied, *inputs), base) > 0.05
        assert torch.equal(sampled(patcher, *inputs), base)
    assert not any(module._forward_hooks for module in patcher.model.modules())


def test_strength_zero_leaves_even_a_quantised_base_as_it_is(case: Callable[..., Any]) -> None:
    patcher, inputs, modules, _ = case("nvfp4")
    base = sampled(patcher, *inputs)
    for bypass in (True, False):
        assert torch.equal(sampled(apply_lora(patcher, modules, strength=0.0, bypass=bypass), *inputs), base)


def test_a_clone_that_dies_takes_no_hooks_with_it(case: Callable[..., Any]) -> None:
    """Clones share injections, and ComfyUI ejects a patcher when it is collected."""
    import comfy.model_management

    patcher, _, modules, _ = case("fp8_scaled")
    applied = apply_lora(patcher, modules, strength=1.0, bypass=True)
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([applied])
    hooked = sum(len(module._forward_hooks) for module in patcher.model.modules())
    clone = applied.clone()
    del clone
    gc.collect()
    assert hooked == len(modules)
    assert sum(len(module._forward_hooks) for module in patcher.model.modules()) == hooked
    applied.eject_model()
    assert sum(len(module._forward_hooks) for module in patcher.model.modules()) == 0


def test_a_clone_in_a_reference_cycle_takes_its_hooks_with_it(case: Callable[..., Any]) -> None:
    """When it is collected, it has no weak references any more by the time it ejects itself."""
    import comfy.model_management

    patcher, _, modules, _ = case("bf16")
    applied = apply_lora(patcher, modules, strength=1.0, bypass=True)
    applied.itself = applied
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([applied])
    assert sum(len(module._forward_hooks) for module in patcher.model.modules()) == len(modules)
    del applied
    gc.collect()
    assert sum(len(module._forward_hooks) for module in patcher.model.modules()) == 0


def test_quantised_bases_are_told_apart(tiny_model: Callable[..., Any]) -> None:
    assert {fmt: is_quantized(tiny_model(fmt)) for fmt in FORMATS} == {
        "fp32": False,
        "bf16": False,
        "fp8_scaled": True,
        "nvfp4": True,
        "int8_convrot": True,
    }


def test_a_lora_that_fits_in_part_only_is_refused_with_the_list(case: Callable[..., Any]) -> None:
    patcher, _, modules, _ = case("bf16")
    wide = {
        path: dataclasses.replace(w, down=torch.zeros(4, w.shape[1] + 1), up=w.up[:, :4]) for path, w in modules.items()
    }
    with pytest.raises(LoraMismatch, match=r"mine\.safetensors does not fit"):
        apply_lora(patcher, wide, strength=1.0, bypass=True, name="mine.safetensors")
    extra = {**modules, "layers.99.attention.o": LoraWeights(torch.zeros(2, 4), torch.zeros(4, 2), 2.0)}
    with pytest.raises(LoraMismatch, match=r"layers\.99\.attention\.o"):
        apply_lora(patcher, extra, strength=1.0, bypass=False)
