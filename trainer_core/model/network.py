"""Ideogram 4 as ComfyUI loaded it, opened for training.

Shapes: B batch, L text tokens, D model width, C latent channels (128), H W latent size (pixels / 16).
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_base
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import WrongModel
from . import host
from .block import TrainedBlock
from .elementwise import compiled
from .frozen import frozen_copy
from .host import ComfyModule
from .identity import patches_identity, weights_identity
from .memory import MemoryMode, MemoryPlan
from .stack import BlockStack
from .usage import DeviceUsage

log = logging.getLogger(__name__)

REAL_WIDTH = 4608
REAL_MIN_SIDE = 256
"""Smallest side in pixels that the released model supports."""
_TEXT_LAYERS = "diffusion_model.llm_cond_"


@dataclasses.dataclass(frozen=True)
class Network:
    """A frozen, differentiable view of the connected model. The model itself is left untouched."""

    module: ComfyModule
    timestep: Callable[[Tensor], Tensor]
    device: torch.device
    dtype: torch.dtype
    usage: DeviceUsage
    lent: Callable[[bool], AbstractContextManager[None]]
    """For the length of this context the model is ComfyUI's, to sample with; it may be anywhere afterwards, and is only
    loaded again when called with True."""

    def velocity(self, noised: Tensor, sigma: Tensor, text: Tensor, text_mask: Tensor | None) -> Tensor:
        """Predict `noise - data`: noised (B, C, H, W), sigma (B,), text (B, L, D) already projected.

        `text_mask` (B, L) is 0 where a caption is padded on the right; None when none is. It is read here, so it should
        be on the CPU. Computes in the model's own dtype, returns float32.
        """
        lengths = None if text_mask is None else [int(length) for length in text_mask.sum(dim=1).tolist()]
        with torch.autocast(self.device.type, enabled=False):
            out = self.module(
                noised.to(self.dtype),
                self.timestep(sigma).float(),
                context=text.to(self.dtype),
                transformer_options={"optimized_attention_override": partial(_attention, lengths, text.shape[1])},
            )
        return out.float()

    def arrange(self, *, kept_blocks: int = 0, offload_inputs: bool = False) -> None:
        """Choose what the blocks keep for the backward pass; see `BlockStack`. Once, when all adapters are in place."""
        stack = BlockStack(
            list(self.module.layers), device=self.device, kept_blocks=kept_blocks, offload_inputs=offload_inputs
        )
        self.module.layers = nn.ModuleList([stack])

    def compile(self, on_failure: Callable[[str], None]) -> None:
        """Fuse the elementwise parts of the blocks with `torch.compile`; without it, with a reason, where it fails."""
        blocks = [module for module in self.module.modules() if isinstance(module, TrainedBlock)]
        attention = blocks[0].attention
        width = attention.o.in_features
        functions = compiled(
            on_failure,
            width=width,
            head_width=width // attention.num_heads,
            device=self.device,
            dtype=self.dtype,
        )
        for block in blocks:
            block.elementwise = functions


@contextmanager
def open_network(patcher: Any, plan: MemoryPlan | None = None) -> Iterator[Network]:
    """Load the model on its device and yield it as a `Network`, inside `host.training_mode`.

    ComfyUI is asked to leave room for what the plan needs beside the weights; it keeps in main memory what does not
    fit with that, from where it is fetched when it is used. The text projection is replaced by the identity: `velocity`
    takes features that `project_text` has already projected. Raises `WrongModel`.
    """
    diffusion_model = check_model(patcher)
    device, dtype = patcher.load_device, compute_dtype(patcher)

    def load(own_bytes: int = 0) -> None:
        # What is in main memory goes there anew: ComfyUI pins it on the way alone, and any clone that dies unpins it.
        if host.is_partly_loaded(patcher) or (plan and plan.mode is MemoryMode.STREAMED and not patcher.is_dynamic()):
            host.unload(patcher)
        # Loaded as any other node would load it, so that ComfyUI meets its own kind of tensors when it unloads it.
        leave_bytes = max(0, plan.leave_bytes(host.total_memory(device)) - own_bytes) if plan else 0
        host.load_on_device(patcher, leave_bytes)
        taken.enter_context(host.put_aside(patcher, [diffusion_model.llm_cond_norm, diffusion_model.llm_cond_proj]))

    @contextmanager
    def lent(again: bool) -> Iterator[None]:
        for part in module.modules():
            if isinstance(part, BlockStack):
                part.weights.release()
        with usage.aside() as own_bytes:
            taken.close()
            yield  # an exception ends the run
            if again:
                load(own_bytes)
            taken.enter_context(host.training_mode(device))

    with ExitStack() as taken:
        load()
        taken.enter_context(host.training_mode(device))
        _check_formats(diffusion_model, device, dtype)
        module = frozen_copy(diffusion_model, device, dtype)
        module.llm_cond_norm = nn.Identity()
        module.llm_cond_proj = nn.Identity()
        module.layers = nn.ModuleList(TrainedBlock(block) for block in module.layers)
        usage = DeviceUsage(device)
        yield Network(module, patcher.get_model_object("model_sampling").timestep, device, dtype, usage, lent)


def _check_formats(diffusion_model: ComfyModule, device: torch.device, dtype: torch.dtype) -> None:
    """Raise `WrongModel` where a weight does not come out of ComfyUI as the matrix that it should be.

    One layer of each kind is tried: other packs load files of other formats with modules of their own.
    """
    kinds = {}
    for name, layer in diffusion_model.layers.named_modules():
        if hasattr(layer, "in_features"):
            kind = type(layer), type(layer.weight), layer.weight.dtype, getattr(layer, "quant_format", None)
            kinds[kind] = name, layer
    for name, layer in kinds.values():
        try:
            with host.cast_weights(layer, device, dtype) as (weight, _):
                works = tuple(weight.shape) == (layer.out_features, layer.in_features) and weight.dtype == dtype
        except (AttributeError, TypeError, ValueError, NotImplementedError, RuntimeError) as error:
            if host.is_out_of_memory(error) or host.is_interrupt(error):
                raise
            log.warning("layers.%s cannot be cast.", name, exc_info=True)
            works = False
        if not works:
            raise WrongModel(
                f"The weights of the connected model (layers.{name}) are stored in a format that cannot be trained on. "
                "Load a bf16, fp8, nvfp4, mxfp8 or int8 file with ComfyUI's own Load Diffusion Model and connect that."
            )


def check_architecture(patcher: Any) -> ComfyModule:
    """Return the diffusion model inside a `ModelPatcher`, or raise `WrongModel` saying what is connected instead."""
    model = getattr(patcher, "model", None)
    if not isinstance(model, comfy.model_base.Ideogram4):
        raise WrongModel(
            f"The connected model is {type(model).__name__}, not Ideogram 4. Load ideogram4_fp8_scaled, "
            "ideogram4_nvfp4_mixed, ideogram4_int8_convrot or a bf16 file with Load Diffusion Model and connect that."
        )
    return model.diffusion_model


def check_model(patcher: Any) -> ComfyModule:
    """Like `check_architecture`, and also refuse what cannot be trained: the unconditional twin, bypass LoRAs."""
    diffusion_model = check_architecture(patcher)
    if "unconditional" in model_file_name(patcher):
        raise WrongModel(
            f"{model_file_name(patcher)} is the unconditional network, which sampling uses for guidance only. "
            "Connect the conditional one, the file of the same name without 'unconditional'."
        )
    if patcher.injections:
        raise WrongModel(
            "The connected model carries a LoRA in bypass mode, which training cannot see. "
            "Connect the model straight from its loader, or apply that LoRA in merge mode."
        )
    if any(str(key).startswith(_TEXT_LAYERS) for key in patcher.patches):
        raise WrongModel(
            "The connected model carries a LoRA on its text layers (llm_cond_norm, llm_cond_proj), which other "
            "programs cannot load beside the one to be trained. Connect the model straight from its loader."
        )
    return diffusion_model


def text_layers(patcher: Any) -> tuple[ComfyModule, ComfyModule]:
    """`llm_cond_norm` and `llm_cond_proj` with their own weights, should a LoRA of a clone be merged into them now."""
    diffusion_model = check_model(patcher)
    if any(str(key).startswith(_TEXT_LAYERS) for key in patcher.backup):
        host.unload(patcher)
    return diffusion_model.llm_cond_norm, diffusion_model.llm_cond_proj


def model_file_name(patcher: Any) -> str:
    """File name of the weights behind a `ModelPatcher`, or "" where ComfyUI does not say."""
    loader = patcher.cached_patcher_init
    source = loader[1][0] if loader and loader[1] else ""
    return Path(source).name if isinstance(source, str) else ""


def model_identity(patcher: Any) -> str:
    """A hash that changes with the weights of the connected model, with what is merged into them, and with sampling."""
    if patcher.backup:
        # Weights in memory hold patches at this moment, this patcher's or a clone's: ask for the unpatched ones.
        host.unload(patcher)
    sampling = patcher.get_model_object("model_sampling")
    timesteps = sampling.timestep(torch.tensor([0.1, 0.5, 0.9])).tolist()
    parts = (
        weights_identity(check_architecture(patcher).state_dict()),
        patches_identity(patcher.patches),
        str(timesteps),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def model_width(patcher: Any) -> int:
    """Width D of the connected network; 4608 for the released model."""
    return check_model(patcher).input_proj.out_features


def text_width(patcher: Any) -> int:
    """Width of the text features that the connected network takes; 53248 for the released model."""
    return check_model(patcher).llm_cond_proj.in_features


def compute_dtype(patcher: Any) -> torch.dtype:
    """The dtype that sampling computes in, which training keeps. Raises `WrongModel` for fp16, which overflows."""
    dtype = patcher.model.get_dtype_inference()
    if dtype == torch.float16:
        raise WrongModel(
            "The connected model computes in fp16, in which Ideogram 4 overflows to NaN. "
            "Remove --force-fp16 or --fp16-unet from ComfyUI's command line and load the model again."
        )
    return dtype


def project_text(patcher: Any, features: Tensor) -> Tensor:
    """Text features (1, L, 53248) through the model's two frozen text layers: (1, L, D), on the CPU."""
    return project_texts(patcher, [features])[0]


def project_texts(patcher: Any, texts: Sequence[Tensor]) -> list[Tensor]:
    """`project_text` of several texts of any length. Each result is what the network would compute itself.

    Only the two layers are brought to the device, once for all texts: dequantised they have half a gigabyte.
    """
    norm, projection = text_layers(patcher)
    device, dtype = patcher.load_device, compute_dtype(patcher)
    normed = []
    with host.on_device(device), host.cast_weights(norm, device, dtype) as (weight, _):
        for features in texts:
            features = features.to(device=device, dtype=dtype)  # noqa: PLW2901 (the same on another device)
            normed.append(F.rms_norm(features, norm.normalized_shape, weight, norm.eps).cpu())
    with host.on_device(device), host.cast_weights(projection, device, dtype) as (weight, bias):
        return [F.linear(features.to(device), weight, bias).cpu() for features in normed]


def _attention(
    lengths: Sequence[int] | None,
    text_slots: int,
    _function: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """torch's attention whatever ComfyUI was started with: some of its kernels have no backward.

    q, k, v are (B, heads, L, head_dim) with `text_slots` text tokens first; returns (B, L, heads * head_dim). Where
    captions differ in length each item is computed alone, without its padding, because a mask rules out flash
    attention; the output at padded places is zero, and nothing reads it.
    """
    if lengths is None:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    else:
        items = zip(q, k, v, lengths, strict=True)
        out = torch.stack([_unpadded(one_q, one_k, one_v, length, text_slots) for one_q, one_k, one_v, length in items])
    return out.transpose(1, 2).flatten(2)


def _unpadded(q: Tensor, k: Tensor, v: Tensor, length: int, text_slots: int) -> Tensor:
    """Attention of one item, (heads, L, head_dim), over its first `length` text tokens and its image."""
    if length == text_slots:
        return F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
    q, k, v = (torch.cat([x[:, :length], x[:, text_slots:]], dim=1)[None] for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v)[0]
    padding = out.new_zeros(out.shape[0], text_slots - length, out.shape[2])
    return torch.cat([out[:, :length], padding, out[:, length:]], dim=1)
