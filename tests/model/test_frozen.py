"""The frozen, adapted network against ComfyUI's own forward and PEFT's own LoRA, on every base format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import FORMATS, RANK, example, fill_up, relative_error
from torch import nn


def dequantized_copy(diffusion_model: nn.Module) -> nn.Module:
    """ComfyUI's own class with plain fp32 weights, the text projection removed as in training."""
    import comfy.ops
    from comfy.ldm.ideogram4.model import Ideogram4Transformer2DModel
    from ideogram4_lora_trainer.trainer_core.model import host

    block = diffusion_model.layers[0]
    plain = Ideogram4Transformer2DModel(
        num_layers=len(diffusion_model.layers),
        num_attention_heads=block.attention.num_heads,
        intermediate_size=block.feed_forward.w1.out_features,
        adaln_dim=block.adaln_modulation.in_features,
        llm_features_dim=diffusion_model.llm_cond_proj.in_features,
        dtype=torch.float32,
        device="cpu",
        operations=comfy.ops.disable_weight_init,
    )
    modules = dict(diffusion_model.named_modules())
    with torch.no_grad():
        for path, module in plain.named_modules():
            if getattr(module, "weight", None) is None:
                continue
            with host.cast_weights(modules[path], torch.device("cpu"), torch.float32) as (weight, bias):
                module.weight.copy_(weight)
                if bias is not None:
                    module.bias.copy_(bias)
    plain.llm_cond_norm = nn.Identity()
    plain.llm_cond_proj = nn.Identity()
    return plain.requires_grad_(False)


def with_peft(plain: nn.Module, adapters: Any) -> dict[str, nn.Parameter]:
    """Stock PEFT LoRA on the plain model with the same values; its parameters under our names."""
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(adapters.layers)), plain)
    named = {}
    modules = dict(plain.named_modules())
    for path, layer in adapters.layers.items():
        peft_layer = modules[path]
        for ours, theirs, kind in ((layer.lora_A, peft_layer.lora_A, "down"), (layer.lora_B, peft_layer.lora_B, "up")):
            theirs["default"].weight.data.copy_(ours["default"].weight.data)
            named[f"{path}.{kind}"] = theirs["default"].weight
    return named


@pytest.mark.parametrize("fmt", FORMATS)
def test_loss_and_gradients_equal_those_of_peft_on_the_dequantized_model(opened: Callable[..., Any], fmt: str) -> None:
    import comfy.model_management

    with opened(fmt, train_modulation=True) as (patcher, network, adapters):
        fill_up(adapters)
        network.arrange()
        noised, sigma, text, target = example(patcher.model.diffusion_model.input_proj.out_features, batch=2)
        (network.velocity(noised, sigma, text, None) - target).square().mean().backward()

        plain = dequantized_copy(patcher.model.diffusion_model)
        reference = with_peft(plain, adapters)
        assert comfy.model_management.in_training
        velocity = plain(noised, sigma, context=text)
        (velocity - target).square().mean().backward()

        assert relative_error(network.velocity(noised, sigma, text, None), velocity) < 1e-5
        for name, parameter in adapters.parameters().items():
            assert parameter.grad is not None, name
            assert relative_error(parameter.grad, reference[name].grad) < 1e-4, name


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_model_is_left_bit_identical(opened: Callable[..., Any], fmt: str) -> None:
    import comfy.model_management

    with opened(fmt) as (patcher, network, _adapters):
        modules = {name: (id(m), type(m)) for name, m in patcher.model.named_modules()}
        before = {name: tensor.clone() for name, tensor in patcher.model.state_dict().items()}
        noised, sigma, text, target = example(patcher.model.diffusion_model.input_proj.out_features)
        (network.velocity(noised, sigma, text, None) - target).square().mean().backward()
    assert not comfy.model_management.in_training
    assert modules == {name: (id(m), type(m)) for name, m in patcher.model.named_modules()}
    after = patcher.model.state_dict()
    assert all(torch.equal(before[name].float(), after[name].float()) for name in before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in patcher.model.modules())
    assert not any(p.requires_grad for p in patcher.model.parameters())


def test_no_base_weight_is_kept_for_the_backward_pass(opened: Callable[..., Any]) -> None:
    with opened("fp8_scaled") as (patcher, network, _adapters):
        shapes = {
            (layer.out_features, layer.in_features)
            for layer in patcher.model.diffusion_model.modules()
            if hasattr(layer, "in_features")
        }
        shapes |= {shape[::-1] for shape in shapes}
        kept: list[tuple[int, ...]] = []
        noised, sigma, text, _ = example(patcher.model.diffusion_model.input_proj.out_features)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
            network.velocity(noised, sigma, text, None)
        assert kept and not shapes & set(kept)


def test_the_trainable_set_is_exactly_the_adapters(opened: Callable[..., Any]) -> None:
    for train_modulation, per_block in ((False, 5), (True, 6)):
        with opened("bf16", train_modulation=train_modulation) as (patcher, network, adapters):
            trainable = [name for name, p in network.module.named_parameters() if p.requires_grad]
            assert len(adapters.layers) == per_block * len(patcher.model.diffusion_model.layers)
            assert len(trainable) == 2 * len(adapters.layers)
            assert all(".lora_A." in name or ".lora_B." in name for name in trainable)


def test_initialisation_depends_on_the_seed_and_on_nothing_else(opened: Callable[..., Any]) -> None:
    values = []
    for consumed in (0, 3):
        torch.rand(consumed)
        state = torch.get_rng_state()
        with opened("bf16") as (_patcher, _network, adapters):
            values.append({name: p.detach().clone() for name, p in adapters.parameters().items()})
        assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(values[0][name], values[1][name]) for name in values[0])
    downs = [v for name, v in values[0].items() if name.endswith(".down")]
    assert all(v.any() for v in downs) and not torch.equal(downs[0], downs[3])
    assert not any(v.any() for name, v in values[0].items() if name.endswith(".up"))


def test_a_batch_of_two_captions_equals_the_two_alone(opened: Callable[..., Any]) -> None:
    from ideogram4_lora_trainer.trainer_core.training.batch import pad_text

    with opened("fp32") as (patcher, network, adapters):
        fill_up(adapters)
        width = patcher.model.diffusion_model.input_proj.out_features
        noised, sigma, _, _ = example(width, batch=2)
        captions = [torch.randn(length, width) for length in (5, 11)]
        text, mask = pad_text(captions)
        together = network.velocity(noised, sigma, text, mask)
        for row, caption in enumerate(captions):
            alone = network.velocity(noised[row : row + 1], sigma[row : row + 1], caption.unsqueeze(0), None)
            assert relative_error(together[row], alone[0]) < 1e-5


def test_padding_is_masked_only_when_there_is_some() -> None:
    from ideogram4_lora_trainer.trainer_core.training.batch import pad_text

    same, mask = pad_text([torch.ones(3, 4), torch.zeros(3, 4)])
    assert same.shape == (2, 3, 4) and mask is None
    padded, mask = pad_text([torch.ones(1, 4), torch.ones(3, 4)])
    assert padded[0].tolist() == [[1.0] * 4, [0.0] * 4, [0.0] * 4]
    assert mask.tolist() == [[1, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("kind", ["of another shape", "raising", "integers"])
def test_a_format_that_cannot_be_trained_on_is_refused_and_others_are_named(
    tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Packs that load other files bring modules of their own, which keep packed numbers under `weight`."""
    from ideogram4_lora_trainer.trainer_core.errors import WrongModel
    from ideogram4_lora_trainer.trainer_core.model.network import open_network

    class Packed(torch.Tensor):
        def to(self, *args: Any, **options: Any) -> Any:
            if kind == "raising":
                raise NotImplementedError("packed numbers")
            return self if kind == "integers" else super().to(*args, **options)

    patcher = tiny_model("bf16")
    layer = patcher.model.diffusion_model.layers[1].feed_forward.w2
    shape = (7, 9) if kind == "of another shape" else tuple(layer.weight.shape)
    with torch.inference_mode():
        packed = torch.zeros(shape, dtype=torch.uint8).as_subclass(Packed)
    monkeypatch.delitem(layer._parameters, "weight")
    monkeypatch.setitem(layer.__dict__, "weight", packed)
    with (
        pytest.raises(
            WrongModel, match=r"layers\.1\.feed_forward\.w2\).* cannot be trained on.* Load a bf16, fp8, nvfp4"
        ),
        torch.inference_mode(),
        open_network(patcher),
    ):
        pass
