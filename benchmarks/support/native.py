"""ComfyUI's own Train LoRA node, through its own code, with the settings that suit this model best.

Checkpointing at depth 2 is per block; the default of 1 is the whole network, which saves nothing. Adapters are in the
type that it computes in, which is its default on a GPU. Its bypass mode cannot run this network: it takes the embedding
for a linear layer. It adapts every module, norms and text layers included, and
computes the text layers in every step: that cannot be switched off.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from .cases import Case, Setup
from .meter import Meter


class _Enough(Exception):
    """All steps that count have ended."""


def run(setup: Setup, case: Case, patcher: Any, meter: Meter) -> dict[str, Any]:
    """Train for some steps. Needs `comfy_extras`, and what it imports."""
    import comfy_extras.nodes_train as nodes

    original = nodes.TrainSampler.fwd_bwd
    begun = 0

    def timed(*args: Any, **keywords: Any) -> Any:
        # A step begins where the one before has ended; nothing has before the first.
        nonlocal begun
        if begun:
            meter.step_done()
        if begun == setup.steps:
            raise _Enough
        begun += 1
        return original(*args, **keywords)

    nodes.TrainSampler.fwd_bwd = timed
    side = setup.size // 16
    text_width = patcher.model.diffusion_model.llm_cond_proj.in_features
    latents = [{"samples": torch.randn(1, 128, side, side)} for _ in range(2)]
    positive = [[[torch.randn(1, setup.text_tokens, text_width), {}]] for _ in range(2)]
    meter.start()
    try:
        with contextlib.suppress(_Enough), torch.inference_mode():
            nodes.TrainLoraNode.execute(latents=latents, positive=positive, **_inputs(setup, case, patcher))
    finally:
        nodes.TrainSampler.fwd_bwd = original
    return {}


def _inputs(setup: Setup, case: Case, patcher: Any) -> dict[str, list[Any]]:
    from comfy.weight_adapter import adapter_maps

    dtype = "fp32" if setup.device == "cpu" else "bf16"
    inputs = {
        "model": patcher,
        "batch_size": 1,
        "steps": setup.steps + 1,  # one more, at whose beginning the last one that counts has ended
        "grad_accumulation_steps": 1,
        "learning_rate": 1e-4,
        "rank": setup.rank,
        "optimizer": "AdamW",
        "loss_function": "MSE",
        "seed": 0,
        "training_dtype": "none" if "native_dtype" in case.options else dtype,
        "lora_dtype": dtype,
        "quantized_backward": False,
        "algorithm": next(name for name in adapter_maps if name.lower() == "lora"),
        "gradient_checkpointing": "kept" not in case.options,
        "checkpoint_depth": 2,
        "offloading": False,
        "existing_lora": "[None]",
        "bucket_mode": False,
        "bypass_mode": False,
    }
    return {name: [value] for name, value in inputs.items()}
