"""The tiny models themselves: random weights, a calibrated VAE, a briefly taught base, and quantised twins.

Shapes: B batch, C = 128 latent channels in ComfyUI's (vae_channel, patch_row, patch_col) order, h w latent size,
L text tokens, F text features.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
LATENT_NORM_FILE = HERE.parents[1] / "trainer_core" / "model" / "ideogram4_latent_norm.json"

WIDTH, FFN, ADALN, TAPS, TEXT_WIDTH, LAYERS = 256, 512, 64, 13, 32, 2
BLOCK_LINEARS = ("attention.qkv", "attention.o", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
# (first number, how many, size) of the drawn pictures. The base learns the lessons by heart; more of them, or fewer,
# and it would trust unseen captions less, or more, than makes a good test (see teach.py).
LESSONS = ((0, 4, (64, 64)), (40, 3, (128, 128)))
CALIBRATION_ONLY = ((4, 10, (64, 64)), (14, 2, (128, 64)))


# ---- random weights ------------------------------------------------------------------------------------------


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Fill every parameter in place: norms 1, biases 0, matrices and kernels N(0, 1/fan_in), embeddings N(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            parameter.requires_grad_(False)
            if parameter.ndim == 1:
                parameter.fill_(0.0 if name == "bias" else 1.0)
            else:
                fan_in = 1 if isinstance(owner, torch.nn.Embedding) else parameter[0].numel()
                parameter.normal_(std=1 / math.sqrt(fan_in), generator=generator)


def make_transformer(seed: int) -> torch.nn.Module:
    """ComfyUI's Ideogram 4 transformer in fp32 with tiny widths and random weights.

    Input and output projections start as each other's transpose, so that the network begins as a pass-through.
    """
    import comfy.ops
    from comfy.ldm.ideogram4.model import Ideogram4Transformer2DModel

    model = Ideogram4Transformer2DModel(
        num_layers=LAYERS,
        num_attention_heads=WIDTH // 256,
        intermediate_size=FFN,
        adaln_dim=ADALN,
        llm_features_dim=TAPS * TEXT_WIDTH,
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    randomise(model, seed)
    random = torch.randn(WIDTH, model.in_channels, generator=torch.Generator().manual_seed(seed))
    orthonormal = torch.linalg.qr(random).Q
    model.input_proj.weight.copy_(2 * orthonormal)
    model.final_layer.linear.weight.copy_(orthonormal.T)
    for name, parameter in model.named_parameters():
        if name.endswith("adaln_modulation.weight"):
            parameter.mul_(0.3)
    return model


def make_text_encoder(seed: int) -> dict[str, torch.Tensor]:
    """A Qwen3-VL with the sizes of the tiny pack, under the names of the released file."""
    import comfy.ops
    from comfy.text_encoders.qwen3vl import Qwen3VL

    model = Qwen3VL({}, torch.float32, "cpu", comfy.ops.disable_weight_init)
    randomise(model, seed)
    names = {"model.": "model.language_model.", "visual.": "model.visual."}
    return {
        next(new + key.removeprefix(old) for old, new in names.items() if key.startswith(old)): value.bfloat16()
        for key, value in model.state_dict().items()
    }


# ---- VAE -----------------------------------------------------------------------------------------------------


def make_vae(seed: int) -> torch.nn.Module:
    """A FLUX.2-shaped VAE; the encoder's width is fixed by ComfyUI's loader, the decoder's is its smallest."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    shape = {
        "double_z": True,
        "z_channels": 32,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
        "batch_norm_latent": True,
    }
    vae = AutoencoderKL(ddconfig=shape, decoder_ddconfig={**shape, "ch": 32}, embed_dim=32)
    randomise(vae, seed)
    return vae.eval()


def raw_means(vae: torch.nn.Module, image: Any) -> torch.Tensor:
    """Posterior means (1, C, h, w) of a PIL RGB image, before any normalisation."""
    import numpy

    pixels = torch.from_numpy(numpy.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    mean = vae.quant_conv(vae.encoder(pixels))[:, :32]
    return torch.nn.functional.pixel_unshuffle(mean, 2)


def calibrate_vae(vae: torch.nn.Module, means: list[torch.Tensor]) -> list[torch.Tensor]:
    """Scale the VAE's 32 channels to Ideogram's statistics, and put the measured ones of all C into the file.

    After this both normalisations, by the published constants and by the VAE's own statistics, give about unit
    variance on pictures like these. Returns the raw means that the calibrated VAE gives.
    """
    published = json.loads(LATENT_NORM_FILE.read_text(encoding="utf-8"))
    shift, scale = (torch.tensor(published[key]).view(4, 32).mean(0) for key in ("shift", "scale"))
    values = torch.cat([mean.reshape(32, -1) for mean in means], dim=1)  # patch positions are the inner index
    gain = scale / values.std(1)
    offset = shift - values.mean(1) * gain
    vae.quant_conv.weight[:32] *= gain.view(-1, 1, 1, 1)
    vae.quant_conv.bias[:32] = vae.quant_conv.bias[:32] * gain + offset

    per_channel = (1, -1, 1, 1)
    gain, offset = gain.repeat_interleave(4).view(per_channel), offset.repeat_interleave(4).view(per_channel)
    calibrated = [mean * gain + offset for mean in means]
    values = torch.cat([mean.flatten(2)[0] for mean in calibrated], dim=1)
    vae.bn.running_mean.copy_(values.mean(1))
    vae.bn.running_var.copy_(values.var(1))
    return calibrated


def normalise(mean: torch.Tensor) -> torch.Tensor:
    """Raw means (B, C, h, w) -> what the transformer expects, by Ideogram's constants."""
    published = json.loads(LATENT_NORM_FILE.read_text(encoding="utf-8"))
    # The file keeps (patch_row, patch_col, vae_channel), ComfyUI the channel first.
    shift, scale = (torch.tensor(published[key]).view(4, 32).T.reshape(1, -1, 1, 1) for key in ("shift", "scale"))
    return (mean - shift) / scale


def encode_captions(file: Path, captions: list[str]) -> list[torch.Tensor]:
    """Text features (1, L, F) from ComfyUI's own text encoder loaded from that file."""
    import comfy.sd

    clip = comfy.sd.load_clip(ckpt_paths=[str(file)], clip_type=comfy.sd.CLIPType.IDEOGRAM4)
    return [clip.encode_from_tokens_scheduled(clip.tokenize(caption))[0][0].clone() for caption in captions]


# ---- quantised twins -----------------------------------------------------------------------------------------


def quantise(
    weights: dict[str, torch.Tensor], layout: str, conf: dict[str, Any], chosen: Callable[[str], bool], **options: Any
) -> dict[str, torch.Tensor]:
    """The bf16 weights with every chosen linear in one of ComfyUI's quantised layouts, as its files store them."""
    from comfy.quant_ops import QuantizedTensor

    out = {}
    for key, value in weights.items():
        layer = key.removesuffix(".weight")
        if not (key.endswith(".weight") and chosen(layer)):
            out[key] = value
            continue
        out.update(QuantizedTensor.from_float(value, layout, **options).state_dict(key))
        out[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(conf).encode()), dtype=torch.uint8)
    return out


def _is_block_linear(layer: str) -> bool:
    return layer.startswith("layers.") and layer.endswith(BLOCK_LINEARS)


def _is_large_linear(layer: str) -> bool:
    return _is_block_linear(layer) or layer.endswith(("adaln_modulation", "llm_cond_proj"))


def save_transformers(folder: Path, name: str, model: torch.nn.Module) -> None:
    """One network in every format under test: fp32, bf16, fp8_scaled, nvfp4 and int8_convrot."""
    weights = model.state_dict()
    bf16 = {key: value.bfloat16() for key, value in weights.items()}
    fp8 = {"format": "float8_e4m3fn"}
    int8 = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}
    rotated = {"per_channel": True, "convrot": True, "convrot_groupsize": 256}
    files = {
        "fp32": weights,
        "bf16": bf16,
        "fp8_scaled": quantise(bf16, "TensorCoreFP8E4M3Layout", fp8, _is_large_linear, scale="recalculate"),
        "nvfp4": quantise(bf16, "TensorCoreNVFP4Layout", {"format": "nvfp4"}, _is_block_linear),
        "int8_convrot": quantise(bf16, "TensorWiseINT8Layout", int8, _is_block_linear, **rotated),
    }
    for suffix, tensors in files.items():
        save(tensors, folder / f"{name}_{suffix}.safetensors")


def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)


# ---- everything ----------------------------------------------------------------------------------------------


def write_all(folder: Path, *, pictures: ModuleType, teach: ModuleType) -> None:
    """Write all models below `folder`; the two modules beside this one come from whoever loaded it."""
    lessons, others = (
        [pictures.draw_picture(first + i, *size) for first, count, size in plan for i in range(count)]
        for plan in (LESSONS, CALIBRATION_ONLY)
    )
    with torch.no_grad():
        vae = make_vae(seed=3)
        means = calibrate_vae(vae, [raw_means(vae, image) for image, _ in lessons + others])
        floats = {key: value.bfloat16() for key, value in vae.state_dict().items() if value.is_floating_point()}
        save(floats, folder / "vae" / "flux2_tiny_vae.safetensors")

        text_encoder = folder / "text_encoders" / "qwen3vl_tiny.safetensors"
        save(make_text_encoder(seed=2), text_encoder)
        features = encode_captions(text_encoder, [caption for _, caption in lessons])
        conditional, unconditional = make_transformer(seed=0), make_transformer(seed=1)

    latents = [normalise(mean) for mean in means[: len(lessons)]]
    teach.teach(conditional, list(zip(latents, features, strict=True)), steps=750, seed=0)
    teach.teach(unconditional, [(latent, None) for latent in latents], steps=150, seed=1)
    save_transformers(folder / "diffusion_models", "ideogram4_tiny", conditional)
    save_transformers(folder / "diffusion_models", "ideogram4_tiny_unconditional", unconditional)
