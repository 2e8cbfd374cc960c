"""What is not a complete, plain, finite LoRA for Ideogram 4 is refused with a sentence that says what and what next.

Files that are broken or made to do harm are in test_hostile_files.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from foreign_loras import fused_lora
from ideogram4_lora_trainer.trainer_core.errors import LoraMismatch, LoraUnreadable, UserError
from ideogram4_lora_trainer.trainer_core.lora_files import LoraWeights, match_modules, parse_lora
from torch import Tensor

SHAPES = {
    f"layers.{block}.{layer}": size
    for block in range(2)
    for layer, size in {"attention.qkv": (24, 8), "attention.o": (8, 8), "adaln_modulation": (32, 4)}.items()
}
O_KEY = "diffusion_model.layers.0.attention.o"


def refusal(error: type[UserError], function: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        function()
    assert type(caught.value) is error
    return str(caught.value)


# ---- tensors -------------------------------------------------------------------------------------------------


def lora(**changes: Tensor | None) -> dict[str, Tensor]:
    """A good comfy LoRA with alpha; then keys replaced or, with None, removed."""
    state_dict, _ = fused_lora("comfy", SHAPES, alpha=4.0)
    state_dict.update({key: tensor for key, tensor in changes.items() if tensor is not None})
    return {key: tensor for key, tensor in state_dict.items() if changes.get(key, tensor) is not None}


def test_the_unchanged_lora_is_accepted() -> None:
    assert len(parse_lora(lora()).modules) == len(SHAPES)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({f"{O_KEY}.lora_A.weight": None}, f"incomplete: {O_KEY} has {O_KEY}.lora_B.weight, {O_KEY}.alpha but no down"),
        ({f"{O_KEY}.lora_B.weight": None}, "no up matrix"),
        ({"diffusion_model.layers.5.attention.o.alpha": torch.tensor(4.0)}, "no down and up matrix"),
        ({f"{O_KEY}.lora_A.weight": torch.zeros(3, 8)}, "(3 x 8)"),
        ({f"{O_KEY}.lora_A.weight": torch.zeros(4, 8, 1, 1)}, "(4 x 8 x 1 x 1)"),
        ({f"{O_KEY}.lora_A.weight": torch.zeros(0, 8), f"{O_KEY}.lora_B.weight": torch.zeros(8, 0)}, "(0 x 8)"),
        ({f"{O_KEY}.lora_A.weight": torch.zeros(4, 8, dtype=torch.float64)}, "stored as float64"),
        ({f"{O_KEY}.lora_B.weight": torch.zeros(8, 4, dtype=torch.float8_e4m3fn)}, "stored as float8_e4m3fn"),
        ({f"{O_KEY}.lora_A.weight": torch.full((4, 8), torch.nan)}, "lora_A.weight holds NaN or infinite"),
        ({f"{O_KEY}.lora_B.weight": torch.full((8, 4), -torch.inf)}, "lora_B.weight holds NaN or infinite"),
        ({f"{O_KEY}.alpha": torch.tensor(torch.nan)}, "alpha is nan; alpha must be above 0"),
        ({f"{O_KEY}.alpha": torch.tensor(0.0)}, "alpha is 0.0; alpha must be above 0"),
        ({f"{O_KEY}.alpha": torch.tensor(-4.0)}, "alpha must be above 0"),
        ({f"{O_KEY}.alpha": torch.ones(2)}, "must be a single number, not float32 (2)"),
        ({f"{O_KEY}.alpha": torch.tensor(True)}, "must be a single number, not bool"),
        ({f"{O_KEY}.lora_down.weight": torch.zeros(4, 8)}, "holds the same matrix twice"),
        ({f"{O_KEY}.dora_scale": torch.ones(8)}, "is a DoRA"),
        ({f"{O_KEY}.lora_magnitude_vector": torch.ones(8)}, "is a DoRA"),
        ({f"{O_KEY}.hada_w1_a": torch.ones(8, 2)}, "is a LoHa"),
        ({f"{O_KEY}.lokr_w1": torch.ones(2, 2)}, "is a LoKr"),
        ({f"{O_KEY}.oft_blocks": torch.ones(2, 2)}, "is an OFT adapter"),
        ({f"{O_KEY}.lora_mid.weight": torch.ones(2, 2)}, "middle matrix"),
        ({f"{O_KEY}.lora_B.bias": torch.ones(8)}, "with biases"),
        ({"diffusion_model.layers.0.attention_norm1.diff": torch.ones(8)}, "full weight differences"),
        ({"diffusion_model.layers.0.ffn_norm1.w_norm": torch.ones(8)}, "full weight differences"),
        (
            {"something.else": torch.ones(1), "more": torch.ones(1)},
            "not understood (2): something.else, more",
        ),
        ({f"{O_KEY}.lora_A.style.weight": torch.ones(4, 8)}, "keys that are not understood (1): "),
    ],
)
def test_broken_tensors(changes: dict[str, Tensor | None], says: str) -> None:
    message = refusal(LoraUnreadable, lambda: parse_lora(lora(**changes), name="mine.safetensors"))
    assert says in message
    assert message.startswith("mine.safetensors")
    assert message.endswith(".")


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ("attention.to_q", "describes layers.0.attention.qkv twice"),
        ("attention.to_out.0", "describes layers.0.attention.o twice"),
    ],
)
def test_one_layer_under_two_names(extra: str, says: str) -> None:
    key = f"diffusion_model.layers.0.{extra}"
    added = {f"{key}.lora_A.weight": torch.ones(4, 8), f"{key}.lora_B.weight": torch.ones(8, 4)}
    for state_dict in (lora(**added), added | lora()):
        message = refusal(LoraUnreadable, lambda state_dict=state_dict: parse_lora(state_dict))
        assert says in message
        assert key in message


def test_mixed_layouts() -> None:
    state_dict = lora() | fused_lora("bare", {"layers.9.attention.o": (8, 8)})[0]
    message = refusal(LoraUnreadable, lambda: parse_lora(state_dict))
    assert "mixes keys of different layouts ('', 'diffusion_model.' in front of the layer names)" in message


def test_q_k_and_v_of_different_sizes() -> None:
    state_dict = {}
    for part, out in zip("qkv", (8, 8, 16), strict=True):
        state_dict[f"transformer.layers.0.attention.to_{part}.lora_A.weight"] = torch.ones(4, 8)
        state_dict[f"transformer.layers.0.attention.to_{part}.lora_B.weight"] = torch.ones(out, 4)
    assert "different sizes ((8 x 8) and (16 x 8))" in refusal(LoraUnreadable, lambda: parse_lora(state_dict))


def test_long_lists_are_cut() -> None:
    extra = {f"unknown.{number:02}": torch.ones(1) for number in range(13)}
    message = refusal(LoraUnreadable, lambda: parse_lora(lora(**extra)))
    assert "unknown.09 and 3 more" in message
    assert "unknown.10" not in message


def test_no_tensors() -> None:
    assert "is empty" in refusal(LoraUnreadable, lambda: parse_lora({}))


def test_a_full_model_is_not_a_lora() -> None:
    for prefix in ("", "model.diffusion_model."):
        model = {f"{prefix}{path}.weight": torch.ones(size) for path, size in SHAPES.items()}
        assert "It looks like a full model" in refusal(LoraUnreadable, lambda model=model: parse_lora(model))


# ---- other models --------------------------------------------------------------------------------------------

FLUX = ("double_blocks.0.img_attn.qkv", "double_blocks.0.txt_mlp.0", "single_blocks.7.linear1")


@pytest.mark.parametrize("layout", ["comfy", "kohya", "diffsynth"])
def test_lora_of_flux(layout: str) -> None:
    state_dict, _ = fused_lora(layout, dict.fromkeys(FLUX, (8, 8)), alpha=1.0)
    message = refusal(LoraMismatch, lambda: parse_lora(state_dict, name="flux.safetensors"))
    assert message.startswith("flux.safetensors was made for another model: its layers (")
    assert "Choose a LoRA for Ideogram 4" in message


@pytest.mark.parametrize(
    "layer",
    [
        "context_refiner.0.attention.qkv",
        "layers.0.attention.out",
        "layers.00.attention.o",
        "layers.0.attention.o.extra",
        "layers.1000.attention.o",
        "layers.-1.attention.o",
        "embed_image_indicator",
        "unconditional_transformer.layers.0.attention.qkv",
    ],
)
def test_one_foreign_layer_is_named(layer: str) -> None:
    for layout in ("comfy", "kohya"):
        state_dict, _ = fused_lora(layout, SHAPES | {layer: (8, 8)})
        message = refusal(LoraMismatch, lambda state_dict=state_dict: parse_lora(state_dict))
        assert f"1 of the {len(SHAPES) + 1} layers" in message
        assert layer in message or layer.replace(".", "_") in message


def test_a_text_encoder_part_is_named() -> None:
    extra = {"text_encoder.q.lora_A.weight": torch.ones(4, 8), "text_encoder.q.lora_B.weight": torch.ones(8, 4)}
    assert "text_encoder.q" in refusal(LoraMismatch, lambda: parse_lora(lora(**extra)))


def weights(out: int, width: int) -> LoraWeights:
    return LoraWeights(torch.ones(2, width), torch.ones(out, 2), 2.0)


def test_match_counts_modules() -> None:
    modules = {"layers.0.attention.o": weights(8, 8)}
    match = match_modules(modules, SHAPES)
    assert (match.modules, match.model_modules) == (1, 6)
    assert str(match) == "1 of 1 modules matched"


def test_match_refuses_in_part_and_in_whole() -> None:
    fits = {"layers.0.attention.o": weights(8, 8)}
    deeper = {f"layers.{block}.attention.o": weights(8, 8) for block in range(20, 34)}
    message = refusal(LoraMismatch, lambda: match_modules(fits | deeper, SHAPES, name="deep.safetensors"))
    assert message.startswith("deep.safetensors does not fit this model: 1 of 15 modules matched; 14 not in the model")
    assert "layers.29.attention.o and 4 more" in message
    assert "Nothing was applied. Choose" in message
    assert "0 of 14 modules matched" in refusal(LoraMismatch, lambda: match_modules(deeper, SHAPES))
    assert "0 of 0 modules matched" in refusal(LoraMismatch, lambda: match_modules({}, SHAPES))


def test_match_refuses_other_sizes_by_one() -> None:
    for out, width in ((8, 9), (9, 8), (7, 8), (8, 7)):
        modules = {"layers.0.attention.o": weights(out, width), "layers.1.attention.o": weights(8, 8)}
        message = refusal(LoraMismatch, lambda modules=modules: match_modules(modules, SHAPES))
        assert f"1 of another size: layers.0.attention.o (LoRA {out}x{width}, model 8x8)" in message
