"""The bare network, and diffusers: what a step costs elsewhere."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .cases import Case, Setup
from .meter import Meter
from .models import BLOCK_LINEARS, WIDTHS, random_tensor


def compute_dtype(setup: Setup) -> torch.dtype:
    """What ComfyUI computes in on that device."""
    return torch.float32 if setup.device == "cpu" else torch.bfloat16


# ---- the floor -----------------------------------------------------------------------------------------------


class LowRank(nn.Module):
    """An adapter in plain torch, and nothing around it. Masters are fp32, as ours."""

    def __init__(self, base: nn.Module, rank: int) -> None:
        super().__init__()
        self.weight = base.weight
        device = self.weight.device
        out_features, in_features = self.weight.shape
        self.down = nn.Parameter(torch.randn(rank, in_features, device=device) / rank)
        self.up = nn.Parameter(torch.zeros(out_features, rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        hidden = x @ self.down.to(x.dtype).T
        return F.linear(x, self.weight) + hidden @ self.up.to(x.dtype).T


class Recomputed(nn.Module):
    """A block under torch's own checkpointing."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *args: Any, **keywords: Any) -> Any:
        return checkpoint(self.block, *args, use_reentrant=False, preserve_rng_state=False, **keywords)


def run_floor(setup: Setup, case: Case, meter: Meter) -> dict[str, Any]:
    """Forward, backward and AdamW of the same adapters on one batch that never changes; weights in the compute type.

    ComfyUI's network class in plain torch: no ComfyUI around it, no loop, no text layers.
    """
    import comfy.model_management

    dtype, side = compute_dtype(setup), setup.size // 16
    network = _plain_network(setup, dtype)
    parameters = []
    for block in network.layers:
        for path in BLOCK_LINEARS:
            parent, name = block.get_submodule(path.partition(".")[0]), path.partition(".")[2]
            adapted = LowRank(getattr(parent, name), setup.rank)
            setattr(parent, name, adapted)
            parameters += [adapted.down, adapted.up]
    if "kept" not in case.options:
        network.layers = nn.ModuleList(Recomputed(block) for block in network.layers)
    comfy.model_management.in_training = True  # the rotary embedding that has a backward
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    noised, target = torch.randn(2, 1, 128, side, side, device=setup.device)
    text = torch.randn(1, setup.text_tokens, network.input_proj.out_features, device=setup.device, dtype=dtype)
    sigma, before = torch.full((1,), 0.5, device=setup.device), None
    meter.start()
    for _ in range(setup.steps):
        velocity = network(noised.to(dtype), sigma, context=text).float()
        loss = F.mse_loss(velocity, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if before is not None:
            before.item()  # the loss of the step before: the device is never idle
        before = loss.detach()
        meter.step_done()
    return {"trained_values": sum(p.numel() for p in parameters)}


def _plain_network(setup: Setup, dtype: torch.dtype) -> Any:
    import comfy.ops
    from comfy.ldm.ideogram4.model import Ideogram4Transformer2DModel

    with torch.device("meta"):
        network = Ideogram4Transformer2DModel(
            num_layers=setup.blocks, operations=comfy.ops.disable_weight_init, **WIDTHS[setup.width]
        )
        network.llm_cond_norm = network.llm_cond_proj = nn.Identity()
    _fill(network, dtype, setup.device)
    return network.requires_grad_(False)


def _fill(module: nn.Module, dtype: torch.dtype, device: str) -> None:
    """Give a network on the meta device random weights."""
    generator = torch.Generator(device).manual_seed(0)
    weights = {name: random_tensor(name, p.shape, dtype, generator) for name, p in module.named_parameters()}
    module.load_state_dict(weights, assign=True, strict=False)


# ---- diffusers -----------------------------------------------------------------------------------------------


def run_diffusers(setup: Setup, case: Case, meter: Meter) -> dict[str, Any]:
    """diffusers' transformer and PEFT, stepped as diffusers' training script for this model is told to in its guide.

    That is: weights in bf16 on a GPU, adapters in the type that PEFT gives them there, no autocast, checkpointing,
    latents and text features encoded before. The captions are not padded to 2048 tokens, as the script would.
    """
    from diffusers import Ideogram4Pipeline, Ideogram4Transformer2DModel
    from peft import LoraConfig

    dtype, side = compute_dtype(setup), setup.size // 16
    with torch.device("meta"):
        transformer = Ideogram4Transformer2DModel(num_layers=setup.blocks, **WIDTHS[setup.width])
    # Its table of frequencies is no weight: it is computed when it is made.
    rotary, config = transformer.rotary_emb, transformer.config
    transformer.rotary_emb = type(rotary)(rotary.head_dim, config.rope_theta, rotary.mrope_section)
    _fill(transformer, dtype, setup.device)
    transformer.to(setup.device).requires_grad_(False)
    targets = ["to_q", "to_k", "to_v", "to_out.0", "w1", "w2", "w3"]
    lora = LoraConfig(r=setup.rank, lora_alpha=setup.rank, init_lora_weights="gaussian", target_modules=targets)
    transformer.add_adapter(lora)
    if "kept" not in case.options:
        transformer.enable_gradient_checkpointing()
    transformer.train()
    parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    position_ids, segment_ids, indicator = Ideogram4Pipeline._prepare_ids(
        [setup.text_tokens], side, side, setup.text_tokens, torch.device(setup.device)
    )
    text = torch.zeros(1, indicator.shape[1], config.llm_features_dim, dtype=dtype, device=setup.device)
    text[:, : setup.text_tokens].normal_()
    padding = torch.zeros(1, setup.text_tokens, 128, dtype=dtype, device=setup.device)
    clean = torch.randn(2, 1, side * side, 128, device=setup.device)
    meter.start()
    for step in range(setup.steps):
        noise, sigma = torch.randn_like(clean[0]), torch.rand(1, device=setup.device)
        noised = (1 - sigma) * clean[step % 2] + sigma * noise
        predicted = transformer(
            hidden_states=torch.cat([padding, noised.to(dtype)], dim=1),
            timestep=(1 - sigma).to(dtype),
            encoder_hidden_states=text,
            position_ids=position_ids,
            segment_ids=segment_ids,
            indicator=indicator,
            return_dict=False,
        )[0]
        loss = F.mse_loss(predicted[:, setup.text_tokens :].float(), clean[step % 2] - noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # the script shows it in every step
        meter.step_done()
    return {"trained_values": sum(p.numel() for p in parameters), "adapters": str(parameters[0].dtype)}
