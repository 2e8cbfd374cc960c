"""Our loss and adapter gradients against diffusers' Ideogram 4 transformer with stock PEFT, in fp32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers_ideogram4 as oracle
import torch
from ideogram4_lora_trainer.trainer_core.model.network import project_text
from ideogram4_lora_trainer.trainer_core.model.objective import add_noise, velocity_loss, velocity_target
from networks import RANK, fill_up, relative_error
from peft import LoraConfig
from torch import Tensor

SPLIT = ("to_q", "to_k", "to_v")


def with_peft(transformer: Any, adapters: Any) -> dict[str, list[Any]]:
    """PEFT LoRA on diffusers' split layers with our values; its layers by our module path, q k v in that order."""
    names = [*SPLIT, "to_out.0", "w1", "w2", "w3"]
    transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names))
    modules = dict(transformer.named_modules())
    by_path = {}
    for path, layer in adapters.layers.items():
        parent, _, name = path.rpartition(".")
        theirs = {"qkv": SPLIT, "o": ("to_out.0",)}.get(name, (name,))
        by_path[path] = [modules[f"{parent}.{their}"] for their in theirs]
        down, up = layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data
        for peft_layer, part in zip(by_path[path], up.chunk(len(theirs)), strict=True):
            peft_layer.lora_A["default"].weight.data.copy_(down)
            peft_layer.lora_B["default"].weight.data.copy_(part)
    return by_path


def fused_gradients(layers: list[Any]) -> tuple[Tensor, Tensor]:
    """The gradients that one fused layer would have: A is shared by q, k and v, B is cut in thirds."""
    down = sum(layer.lora_A["default"].weight.grad for layer in layers)
    return down, torch.cat([layer.lora_B["default"].weight.grad for layer in layers])


def test_loss_and_gradients_equal_those_of_diffusers(opened: Callable[..., Any]) -> None:
    draw = torch.Generator().manual_seed(2)
    with opened("fp32") as (patcher, network, adapters):
        fill_up(adapters)
        diffusion_model = patcher.model.diffusion_model
        transformer = oracle.tiny_transformer({k: v.clone() for k, v in diffusion_model.state_dict().items()})
        peft_layers = with_peft(transformer, adapters)

        clean, noise = (torch.randn(2, 128, 5, 4, generator=draw) for _ in range(2))
        sigma = torch.tensor([0.35, 0.8])
        features = torch.randn(2, 9, diffusion_model.llm_cond_proj.in_features, generator=draw)
        noised, target = add_noise(clean, noise, sigma), velocity_target(clean, noise)

        text = torch.cat([project_text(patcher, row.unsqueeze(0)) for row in features])
        ours = velocity_loss(network.velocity(noised, sigma, text, None), target).mean()
        ours.backward()
        theirs = (oracle.velocity(transformer, noised, features, sigma) - target).square().mean()
        theirs.backward()

        assert relative_error(ours.detach(), theirs.detach()) < 1e-5
        for path, layer in adapters.layers.items():
            down, up = fused_gradients(peft_layers[path])
            assert relative_error(layer.lora_A["default"].weight.grad, down) < 1e-4, path
            assert relative_error(layer.lora_B["default"].weight.grad, up) < 1e-4, path


def test_projected_text_gives_the_same_velocity_as_raw_features(opened: Callable[..., Any]) -> None:
    draw = torch.Generator().manual_seed(3)
    for fmt in ("fp32", "fp8_scaled"):
        with opened(fmt) as (patcher, network, _adapters):
            model = patcher.model.diffusion_model
            features = torch.randn(1, 6, model.llm_cond_proj.in_features, generator=draw)
            noised, sigma = torch.randn(1, 128, 4, 4, generator=draw), torch.tensor([0.6])
            projected = network.velocity(noised, sigma, project_text(patcher, features), None)
            raw = model(noised.to(network.dtype), sigma, context=features.to(network.dtype)).float()
            assert relative_error(projected, raw) < 1e-5


def test_position_matters_as_much_as_in_the_fp32_model_even_under_ambient_autocast(opened: Callable[..., Any]) -> None:
    """Shuffle the image tokens: a model that sees position changes its (unshuffled) output, a blind one does not."""
    draw = torch.Generator().manual_seed(4)
    with opened("fp32") as (patcher, network, _adapters):
        noised = torch.randn(1, 128, 6, 6, generator=draw)
        text = torch.randn(1, 5, patcher.model.diffusion_model.input_proj.out_features, generator=draw)
        order = torch.randperm(36, generator=draw)

        def change(velocity: Callable[[Tensor], Tensor]) -> float:
            straight = velocity(noised).flatten(2)[..., order]
            shuffled = velocity(noised.flatten(2)[..., order].view_as(noised)).flatten(2)
            return relative_error(shuffled, straight)

        def as_trained(x: Tensor) -> Tensor:
            return network.velocity(x, torch.tensor([0.7]), text, None).detach()

        def under_autocast(x: Tensor) -> Tensor:
            model = patcher.model.diffusion_model
            features = torch.randn(1, 5, model.llm_cond_proj.in_features, generator=torch.Generator().manual_seed(6))
            with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
                return model(x, torch.tensor([0.7]), context=features).float()

        expected = change(as_trained)
        blind = change(under_autocast)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            protected_inside = change(as_trained)
    with torch.autocast("cpu", dtype=torch.bfloat16), opened("fp32") as (_patcher, network, _adapters):
        protected = change(as_trained)
    assert expected > 0.03
    assert blind < 0.3 * expected, "autocast no longer ruins positions; the protection may be obsolete"
    assert protected_inside == expected
    assert abs(protected - expected) < 1e-5
