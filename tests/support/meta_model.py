"""Ideogram 4 at its released sizes on the `meta` device: every tensor has a size, and none has contents.

So the memory of a training step at 1024x1024 can be counted here, in seconds, without a GPU. Two kernels have no form
for this device whose memory would be that of a GPU's, so their tensors are made here: flash attention and the fused
RMSNorm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import comfy.model_base
import comfy.ops
import comfy.supported_models
import pytest
import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from ideogram4_lora_trainer.trainer_core.model import adapters, host, memory, network, stack
from ideogram4_lora_trainer.trainer_core.model.objective import velocity_loss
from live_bytes import LiveBytes
from torch import Tensor

META = torch.device("meta")


class _AnySize(comfy.supported_models.Ideogram4):
    unet_extra_config = {}  # noqa: RUF012 - the sizes of the released model, which would override ours


def meta_patcher(*, blocks: int = 34) -> ModelPatcher:
    """The released sizes, in bf16."""
    config = _AnySize({
        "image_model": "ideogram4", "in_channels": 128, "num_layers": blocks, "num_attention_heads": 18,
        "attention_head_dim": 256, "intermediate_size": 12288, "adaln_dim": 512, "llm_features_dim": 53248,
        "rope_theta": 5_000_000, "mrope_section": [24, 20, 20], "norm_eps": 1e-5,
    })  # fmt: skip
    config.set_inference_dtype(torch.bfloat16, None)
    config.custom_operations = comfy.ops.disable_weight_init
    with META:
        model = comfy.model_base.Ideogram4(config, device=META)
    model.diffusion_model.requires_grad_(False)
    return ModelPatcher(model, load_device=META, offload_device=META)


def measured_step(patcher: Any, settings: Any, plan: memory.MemoryPlan, size: tuple[int, int], text_tokens: int) -> int:
    """Peak bytes of forward and backward beside the weights, adapters and moments included as they lie there."""
    with _meta_kernels(), torch.inference_mode(), network.open_network(patcher) as opened:
        trained = adapters.inject_adapters(
            opened.module,
            rank=settings.rank,
            rank_stabilized=False,
            train_modulation=settings.train_modulation,
            generator_for=lambda _path: torch.Generator().manual_seed(0),
            device=META,
        )
        opened.arrange(kept_blocks=plan.kept_blocks, offload_inputs=plan.offloads)
        count, width = settings.batch_size, patcher.model.diffusion_model.input_proj.out_features
        with LiveBytes() as live:
            for _ in range(settings.gradient_accumulation):
                noised = torch.randn(count, 128, size[1] // 16, size[0] // 16, device=META)
                text = torch.randn(count, text_tokens, width, device=META, dtype=torch.bfloat16)
                velocity = opened.velocity(noised, torch.rand(count, device=META), text, None)
                velocity_loss(velocity, noised).sum().backward()
                del noised, text, velocity
    masters = sum(parameter.nbytes for parameter in trained.parameters().values())
    return live.peak + masters * (1 if plan.offloads else 3)


@contextlib.contextmanager
def _meta_kernels() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "autocast", lambda *_a, **_k: contextlib.nullcontext())
        patch.setattr(host, "load_on_device", lambda *_: None)
        patch.setattr(stack, "HostInputs", _InputsElsewhere)
        patch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, attn_mask=None: _Flash.apply(q, k, v))
        patch.setattr(F, "rms_norm", lambda x, _shape, weight, _eps: _FusedNorm.apply(x, weight))
        yield


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device))
        return out

    @staticmethod
    def backward(ctx: Any, _grad: Tensor) -> Any:
        q, k, v, _, _ = ctx.saved_tensors
        _in_fp32 = torch.empty(q.shape, dtype=torch.float32, device=q.device)  # where the gradient of q is added up
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class _FusedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, _grad: Tensor) -> Any:
        return torch.empty_like(ctx.saved_tensors[0]), None


class _InputsElsewhere:
    """As `HostInputs`, whose main memory is not counted."""

    def __init__(self, _device: torch.device) -> None:
        self._kinds: dict[int, Any] = {}
        self._coming: dict[int, Tensor] = {}

    def put(self, index: int, h: Tensor) -> None:
        self._kinds[index] = h.shape, h.dtype

    def take(self, index: int, then: int) -> Tensor:
        for wanted in (index, then):
            if wanted >= 0 and wanted not in self._coming:
                shape, dtype = self._kinds[wanted]
                self._coming[wanted] = torch.empty(shape, dtype=dtype, device=META)
        return self._coming.pop(index)
