"""Layers and tiny networks with exact products and with quantised ones, on a CPU that stands in for a card."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from . import pack

ROTATED = {"convrot": True, "convrot_groupsize": 256}
LAYOUTS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "fp8_scaled": ("float8_e4m3fn", "TensorCoreFP8E4M3Layout", {}, {"scale": "recalculate"}),
    "int8": ("int8_tensorwise", "TensorWiseINT8Layout", {}, {}),
    "int8_convrot": ("int8_tensorwise", "TensorWiseINT8Layout", ROTATED, {"per_channel": True}),
    "nvfp4": ("nvfp4", "TensorCoreNVFP4Layout", {}, {}),
}
"""ComfyUI's name of the format, its layout, what the file says of it, and how to quantise."""
SIDE, SIGMAS, RANK = 64, 10, 8


# ---- a card for the CPU --------------------------------------------------------------------------------------


@contextmanager
def pretended_card() -> Iterator[None]:
    """Let ComfyUI take the CPU for a card with products in every format, for models that are loaded and run inside."""
    import comfy.model_management
    import comfy_kitchen

    with (
        mock.patch.object(comfy.model_management, "supports_fp8_compute", lambda device=None: True),
        mock.patch.object(comfy.model_management, "supports_nvfp4_compute", lambda device=None: True),
        mock.patch.object(comfy_kitchen, "scaled_mm_nvfp4", _scaled_mm_nvfp4),
    ):
        yield


def _scaled_mm_nvfp4(a: Any, b: Any, *, bias: Any = None, out_dtype: torch.dtype, **scales: Any) -> torch.Tensor:
    import comfy_kitchen

    x, weight = (
        comfy_kitchen.dequantize_nvfp4(data, scales[f"tensor_scale_{name}"], scales[f"block_scale_{name}"], out_dtype)
        for name, data in (("a", a), ("b", b))
    )
    return F.linear(x, weight, bias)


# ---- models and data -----------------------------------------------------------------------------------------


def load(path: Path) -> Any:
    import comfy.sd

    with torch.inference_mode():
        return comfy.sd.load_diffusion_model(str(path))


def from_tests(path: str) -> Any:
    """A file below tests/, as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, pack.ROOT / "tests" / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encoded(models: Path, folder: Path, patcher: Any) -> Any:
    """Three drawn pictures as training data."""
    import comfy.sd
    import comfy.utils

    (folder / "set.zip").write_bytes(from_tests("support/datasets.py").dataset_zip())
    vae = comfy.utils.load_torch_file(str(models / "vae" / "flux2_tiny_vae.safetensors"), return_metadata=True)
    text_encoder = str(models / "text_encoders" / "qwen3vl_tiny.safetensors")
    with torch.inference_mode():
        return pack.core("model.encode").encode_dataset(
            pack.core("dataset").open_dataset(folder / "set.zip"),
            width=SIDE,
            height=SIDE,
            vae=comfy.sd.VAE(sd=vae[0], metadata=vae[1]),
            clip=comfy.sd.load_clip(ckpt_paths=[text_encoder], clip_type=comfy.sd.CLIPType.IDEOGRAM4),
            patcher=patcher,
            cache_folder=folder / "cache",
        )


def frozen_linear(fmt: str, out: int, width: int, device: torch.device, dtype: torch.dtype) -> Any:
    """A layer of random weights as ComfyUI loads it, opened for training."""
    import comfy.ops
    from comfy.quant_ops import QuantizedTensor

    name, layout, conf, options = LAYOUTS[fmt]
    draw = torch.Generator(device).manual_seed(1000)
    weight = torch.randn(out, width, generator=draw, device=device, dtype=dtype) / width**0.5
    file = QuantizedTensor.from_float(weight, layout, **options, **conf).state_dict("weight")
    file["comfy_quant"] = torch.tensor(list(json.dumps({"format": name, **conf}).encode()), dtype=torch.uint8)
    quantized = SimpleNamespace(quant_config={"mixed_ops": True})
    operations = comfy.ops.pick_operations(dtype, dtype, load_device=device, model_config=quantized)
    base = operations.Linear(width, out, bias=False, device=device)
    base.load_state_dict(file)
    return pack.core("model.frozen").FrozenLinear(base)


# ---- errors --------------------------------------------------------------------------------------------------


@contextmanager
def opened(patcher: Any, modules: Any, *, quantized: bool) -> Iterator[tuple[Any, Any, Any]]:
    """Network, adapters with the values of a LoRA or random ones, and which quantised products are used."""
    generator = pack.core("training.streams").generator
    with torch.inference_mode(), pack.core("model.network").open_network(patcher) as network:
        adapters = pack.core("model.adapters").inject_adapters(
            network.module,
            rank=RANK,
            rank_stabilized=False,
            train_modulation=False,
            generator_for=lambda path: generator(0, "adapter", path),
            device=network.device,
        )
        if modules:
            pack.core("training.start").start_from(adapters, modules, name="trained")
        else:
            draw = torch.Generator().manual_seed(5)
            for name, parameter in adapters.parameters().items():
                if name.endswith(".up"):
                    parameter.data.copy_(0.02 * torch.randn(parameter.shape, generator=draw))
        network.arrange()
        yield network, adapters, use(network) if quantized else None


def use(network: Any) -> Any:
    """Quantised products wherever they can be had."""
    return pack.core("model.quantized").use_quantized_products(network.module, network.device, network.dtype)


def examples(data: Any, device: torch.device) -> Iterator[tuple[Any, ...]]:
    """Each picture at fixed noise levels with fixed noise: noised, sigma, text, target."""
    objective = pack.core("model.objective")
    quantiles = torch.linspace(0.05, 0.95, SIGMAS, dtype=torch.float64)
    sigma = objective.sigma_from_uniform(quantiles, mu=0.0, std=1.5, width=SIDE, height=SIDE)
    for index in range(len(data.items)):
        clean = data.statistics("ideogram").normalize(data.raw_latent(index)).expand(SIGMAS, -1, -1, -1)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(index))
        text = data.text(index).expand(SIGMAS, -1, -1)
        noised, target = objective.add_noise(clean, noise, sigma), objective.velocity_target(clean, noise)
        yield tuple(tensor.to(device) for tensor in (noised, sigma, text, target))


def results(patcher: Any, data: Any, modules: Any, *, quantized: bool) -> dict[str, torch.Tensor]:
    """Velocity, gradient of the noised latent, and gradients of all adapter matrices by name."""
    with opened(patcher, modules, quantized=quantized) as (network, adapters, _):
        noised, sigma, text, target = next(examples(data, network.device))
        noised.requires_grad_()
        velocity = network.velocity(noised, sigma, text, None)
        (velocity - target).square().mean().backward()
        gradients = {name: parameter.grad for name, parameter in adapters.parameters().items()}
        return {"output": velocity.detach(), "input gradient": noised.grad, **gradients}


def errors(patcher: Any, data: Any, modules: Any) -> dict[str, float]:
    """1 - cosine between results with exact products and with quantised ones."""
    exact, found = (results(patcher, data, modules, quantized=quantized) for quantized in (False, True))
    each = {name: 1 - cosine(found[name], exact[name]) for name in exact}
    output, input_gradient = each.pop("output"), each.pop("input gradient")
    mean, worst = sum(each.values()) / len(each), max(each.values())
    return {"output": output, "input gradient": input_gradient, "adapter mean": mean, "adapter worst": worst}


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return F.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0).item()


# ---- training ------------------------------------------------------------------------------------------------


def trained(patcher: Any, data: Any, folder: Path, *, seed: int, steps: int, quantized: bool) -> Any:
    """A LoRA from the trainer's own loop."""
    loop, runs = pack.core("training.loop"), pack.core("training.runs")
    open_network = loop.open_network

    @contextmanager
    def open_quantized(*arguments: Any) -> Iterator[Any]:
        with open_network(*arguments) as network:
            use(network)
            yield network

    settings = pack.core("config").TrainSettings(
        steps=steps, rank=RANK, learning_rate=3e-3, schedule="cosine", seed=seed, quantized_products=quantized
    )
    place = runs.RunPlace(runs_folder=folder / "runs", loras_folder=folder / "loras")
    with mock.patch.object(loop, "open_network", open_quantized if quantized else open_network), torch.inference_mode():
        return loop.train(patcher, data, settings, place).modules


def validation_loss(patcher: Any, data: Any, modules: Any, *, quantized: bool) -> float:
    """Mean loss on the fixed examples, as a sampler with exact or quantised products would see it."""
    loss = pack.core("model.objective").velocity_loss
    with opened(patcher, modules, quantized=quantized) as (network, _, _), torch.no_grad():
        losses = [
            loss(network.velocity(noised, sigma, text, None), target).mean()
            for noised, sigma, text, target in examples(data, network.device)
        ]
    return torch.stack(losses).mean().item()
