"""Every layout is recognised and converted to the same update; our own exports survive the round trip."""

from __future__ import annotations

import json

import pytest
import torch
from foreign_loras import FUSED, fused_lora, split_lora, update
from ideogram4_lora_trainer.trainer_core.errors import LoraUnreadable, SaveFailed
from ideogram4_lora_trainer.trainer_core.lora_files import (
    LoraWeights,
    ParsedLora,
    comfy_state_dict,
    export_lora,
    parse_lora,
)
from torch import Tensor

SIZES = {
    "attention.qkv": (48, 16),
    "attention.o": (16, 16),
    "feed_forward.w1": (40, 16),
    "feed_forward.w2": (16, 40),
    "feed_forward.w3": (40, 16),
    "adaln_modulation": (64, 8),
}
SHAPES = {f"layers.{block}.{layer}": size for block in (0, 1, 10) for layer, size in SIZES.items()}


def relative(ours: Tensor, expected: Tensor) -> float:
    return float((ours.double() - expected.double()).norm() / expected.double().norm())


def assert_same_update(parsed: ParsedLora, expected: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    assert list(parsed.modules) == list(expected)
    for path, weights in parsed.modules.items():
        assert weights.shape == expected[path].shape
        assert relative(update(weights.down, weights.up, weights.alpha), expected[path]) <= tolerance, path
        assert relative(weights.delta(), expected[path]) <= 1e-6, path


# ---- reading -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [None, 4.0, 1.0, 3.0])
@pytest.mark.parametrize("layout", FUSED)
def test_fused_layouts_keep_every_bit(layout: str, alpha: float | None) -> None:
    state_dict, deltas = fused_lora(layout, SHAPES, alpha=alpha)
    parsed = parse_lora(state_dict)
    assert parsed.layout == layout
    assert_same_update(parsed, deltas, tolerance=0)
    kept = {tensor.data_ptr() for weights in parsed.modules.values() for tensor in (weights.down, weights.up)}
    assert kept == {tensor.data_ptr() for tensor in state_dict.values() if tensor.ndim == 2}


@pytest.mark.parametrize("alphas", [(None, None, None), (8.0, 8.0, 8.0), (1.0, 2.0, 3.0), (None, 4.0, 4.0)])
@pytest.mark.parametrize("shared", [True, False])
def test_split_attention_is_fused(shared: bool, alphas: tuple) -> None:
    state_dict, deltas = split_lora(SHAPES, shared=shared, alphas=alphas)
    parsed = parse_lora(state_dict)
    assert parsed.layout == "diffusers"
    assert_same_update(parsed, deltas)
    assert parsed.modules["layers.0.attention.qkv"].rank == (4 if shared else 12)


def test_split_attention_with_alpha_equal_to_rank_is_fused_without_rounding() -> None:
    for shared in (True, False):
        state_dict, deltas = split_lora(SHAPES, shared=shared)
        assert_same_update(parse_lora(state_dict), deltas, tolerance=0)


def test_split_attention_of_different_ranks_and_types() -> None:
    state_dict, deltas = split_lora(SHAPES, ranks=(2, 3, 5), alphas=(2.0, 1.0, 9.0))
    assert_same_update(parse_lora(state_dict), deltas)
    for key, tensor in state_dict.items():
        if ".to_k." in key:
            state_dict[key] = tensor.to(torch.bfloat16)
    mixed = parse_lora(state_dict).modules["layers.0.attention.qkv"]
    exact = [
        update(*(state_dict[f"transformer.layers.0.attention.to_{p}.lora_{m}.weight"] for m in "AB"), alpha)
        for p, alpha in zip("qkv", (2.0, 1.0, 9.0), strict=True)
    ]
    assert relative(mixed.delta(), torch.cat(exact)) < 1e-6


@pytest.mark.parametrize("parts", ["q", "v", "qv", "kv"])
def test_attention_parts_that_were_not_trained_stay_zero(parts: str) -> None:
    for shared in (True, False):
        state_dict, deltas = split_lora(SHAPES, parts=parts, shared=shared, alphas=(2.0, 6.0, 1.0))
        assert_same_update(parse_lora(state_dict), deltas)


@pytest.mark.parametrize("prefix", ["diffusion_model.", "conditional_transformer.", "", "base_model.model."])
def test_split_attention_under_other_prefixes(prefix: str) -> None:
    state_dict, deltas = split_lora(SHAPES, prefix=prefix, alphas=(1.0, 1.0, 1.0))
    assert_same_update(parse_lora(state_dict), deltas)


@pytest.mark.parametrize("prefix", ["lora_unet_", "lora_transformer_"])
def test_split_attention_in_flattened_names(prefix: str) -> None:
    dotted, deltas = split_lora(SHAPES, prefix="", alphas=(1.0, 1.0, 1.0))
    suffixes = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight", "alpha": "alpha"}
    flat = {}
    for key, tensor in dotted.items():
        suffix = next(suffix for suffix in suffixes if key.endswith(suffix))
        flat[f"{prefix}{key.removesuffix('.' + suffix).replace('.', '_')}.{suffixes[suffix]}"] = tensor
    parsed = parse_lora(flat)
    assert parsed.layout == "kohya"
    assert_same_update(parsed, deltas)


def test_layers_outside_the_blocks_are_read() -> None:
    outer = {"input_proj": (16, 8), "t_embedding.mlp_in": (16, 16), "final_layer.adaln_modulation": (16, 8)}
    for layout in ("comfy", "kohya"):
        state_dict, deltas = fused_lora(layout, {"layers.0.attention.o": (16, 16), **outer}, alpha=2.0)
        assert_same_update(parse_lora(state_dict), deltas)


def test_modules_come_in_the_models_order() -> None:
    shapes = SHAPES | {"input_proj": (16, 8), "final_layer.linear": (8, 16)}
    for state_dict in (fused_lora("comfy", shapes)[0], split_lora(shapes)[0]):
        shuffled = dict(sorted(state_dict.items(), key=lambda item: item[0][::-1]))
        assert list(parse_lora(shuffled).modules) == list(shapes)


def test_half_precision_values_are_kept_as_they_are() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        state_dict, deltas = fused_lora("comfy", SHAPES, alpha=3.0, dtype=dtype)
        parsed = parse_lora(state_dict)
        assert_same_update(parsed, deltas, tolerance=0)
        assert {weights.up.dtype for weights in parsed.modules.values()} == {dtype}


def test_alpha_may_be_a_whole_number_or_a_list_of_one() -> None:
    state_dict, deltas = fused_lora("comfy", {"layers.0.attention.o": (16, 16)}, rank=4, alpha=2.0)
    for alpha in (torch.tensor(2), torch.tensor([2.0]), torch.tensor(2.0, dtype=torch.float64)):
        state_dict["diffusion_model.layers.0.attention.o.alpha"] = alpha
        assert_same_update(parse_lora(state_dict), deltas)


# ---- diffusers' header -----------------------------------------------------------------------------------------


def header(**values: object) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in values.items()})}


@pytest.mark.parametrize("layout", ["simpletuner", "fal", "bare"])
def test_header_gives_the_alpha_that_the_keys_lack(layout: str) -> None:
    state_dict, deltas = fused_lora(layout, SHAPES)
    pattern = {"layers.1.attention.o": 2.0, "adaln_modulation": 12}
    parsed = parse_lora(state_dict, header(r=4, lora_alpha=8, alpha_pattern=pattern))
    factors = dict.fromkeys(deltas, 2.0) | {key: 3.0 for key in deltas if key.endswith("adaln_modulation")}
    factors["layers.1.attention.o"] = 0.5
    assert_same_update(parsed, {path: delta * factors[path] for path, delta in deltas.items()})


def test_header_counts_for_split_layers_under_their_own_names() -> None:
    shapes = {"layers.0.attention.qkv": (48, 16), "layers.0.attention.o": (16, 16)}
    for rslora, factor in ((False, 1.0), (True, 2.0)):  # alpha/sqrt(4) is twice alpha/4
        state_dict, deltas = split_lora(shapes, alphas=(4.0, 8.0, 4.0))
        plain = {key: tensor for key, tensor in state_dict.items() if not key.endswith(".alpha")}
        values = {"r": 4, "lora_alpha": 4, "alpha_pattern": {"to_k": 8}, "use_rslora": rslora}
        parsed = parse_lora(plain, header(**values))
        assert_same_update(parsed, {path: delta * factor for path, delta in deltas.items()})


@pytest.mark.parametrize("layout", ["comfy", "kohya"])
def test_header_is_not_read_where_comfyui_would_not(layout: str) -> None:
    state_dict, deltas = fused_lora(layout, SHAPES)
    assert_same_update(parse_lora(state_dict, header(r=4, lora_alpha=8)), deltas)


def test_header_that_says_nothing_new_is_accepted() -> None:
    state_dict, deltas = fused_lora("fal", SHAPES, alpha=2.0)
    assert_same_update(parse_lora(state_dict, header(r=4, lora_alpha=4)), deltas)
    other_part = {"lora_adapter_metadata": json.dumps({"text_encoder.r": 4, "text_encoder.lora_alpha": 9})}
    assert_same_update(parse_lora(state_dict, other_part), deltas)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"r": 8, "lora_alpha": 8}, "rank 8, its tensors have rank 4"),
        ({"r": 4}, "cannot be understood"),
        ({"r": 4, "lora_alpha": "4"}, "cannot be understood"),
        ({"r": 4, "lora_alpha": float("nan")}, "cannot be understood"),
        ({"r": 4, "lora_alpha": -4}, "cannot be understood"),
        ({"r": 4, "lora_alpha": 4, "alpha_pattern": {"(a+)+$": 4}}, "is not a layer name"),
        ({"r": 4, "lora_alpha": 4, "alpha_pattern": [4]}, "cannot be understood"),
        ({"r": 4, "lora_alpha": 4, "use_dora": True}, "is a DoRA"),
    ],
)
def test_header_that_cannot_be_trusted_is_refused(values: dict, says: str) -> None:
    state_dict, _ = fused_lora("fal", SHAPES)
    with pytest.raises(LoraUnreadable, match=says.replace("(", r"\(")):
        parse_lora(state_dict, header(**values), name="style.safetensors")
    for broken in ("{", "[]", "[" * 100_000, "3"):
        with pytest.raises(LoraUnreadable, match=r"style\.safetensors.*cannot be understood"):
            parse_lora(state_dict, {"lora_adapter_metadata": broken}, name="style.safetensors")


def test_strength_stated_twice_is_refused() -> None:
    state_dict, _ = fused_lora("fal", SHAPES, alpha=2.0)
    with pytest.raises(LoraUnreadable, match="states its strength twice"):
        parse_lora(state_dict, header(r=4, lora_alpha=8))


# ---- writing -------------------------------------------------------------------------------------------------


def random_modules(shapes: dict[str, tuple[int, int]] = SHAPES, rank: int = 4) -> dict[str, LoraWeights]:
    generator = torch.Generator().manual_seed(1)
    return {
        path: LoraWeights(
            torch.randn(rank, width, generator=generator), torch.randn(out, rank, generator=generator), float(rank)
        )
        for path, (out, width) in shapes.items()
    }


def deltas_of(modules: dict[str, LoraWeights]) -> dict[str, Tensor]:
    return {path: update(weights.down, weights.up, weights.alpha) for path, weights in modules.items()}


@pytest.mark.parametrize("layout", ["comfy", "fal", "diffusers"])
def test_export_and_parse_give_the_same_tensors(layout: str) -> None:
    modules = random_modules()
    parsed = parse_lora(export_lora(modules, layout, dtype=torch.float32))
    assert parsed.layout == layout
    for path, weights in parsed.modules.items():
        assert torch.equal(weights.down, modules[path].down)
        assert torch.equal(weights.up, modules[path].up)
        assert weights.alpha == modules[path].alpha


@pytest.mark.parametrize("layout", ["comfy", "fal", "diffusers"])
def test_export_folds_scale_and_pads_to_one_rank(layout: str) -> None:
    modules = random_modules()
    modules["layers.0.attention.qkv"] = LoraWeights(torch.randn(12, 16), torch.randn(48, 12), 5.0)
    modules["layers.1.attention.o"] = LoraWeights(torch.randn(1, 16), torch.randn(16, 1), 0.3)
    state_dict = export_lora(modules, layout, dtype=torch.float32)
    assert {tensor.shape[0] for key, tensor in state_dict.items() if key.endswith("lora_A.weight")} == {12}
    assert {tensor.shape[1] for key, tensor in state_dict.items() if key.endswith("lora_B.weight")} == {12}
    alphas = {float(tensor) for key, tensor in state_dict.items() if key.endswith(".alpha")}
    assert alphas == (set() if layout == "diffusers" else {12.0})
    assert_same_update(parse_lora(state_dict), deltas_of(modules))


def test_export_to_bf16_rounds_each_value_once() -> None:
    modules = random_modules()
    for layout in ("comfy", "fal", "diffusers"):
        state_dict = export_lora(modules, layout)
        assert {tensor.dtype for key, tensor in state_dict.items() if not key.endswith(".alpha")} == {torch.bfloat16}
        assert all(tensor.is_contiguous() for tensor in state_dict.values())
        for path, weights in parse_lora(state_dict).modules.items():
            assert torch.equal(weights.up, modules[path].up.to(torch.bfloat16))


def test_exports_share_no_memory_with_the_training() -> None:
    modules = random_modules()
    for layout in ("comfy", "fal", "diffusers"):
        state_dict = export_lora(modules, layout, dtype=torch.float32)
        places = [tensor.untyped_storage().data_ptr() for tensor in state_dict.values()]
        places += [weights.down.untyped_storage().data_ptr() for weights in modules.values()]
        assert len(set(places)) == len(places)


def test_comfy_state_dict_is_the_lora_as_trained() -> None:
    modules = random_modules() | {"layers.1.attention.o": LoraWeights(torch.randn(7, 16), torch.randn(16, 7), 3.0)}
    state_dict = comfy_state_dict(modules)
    assert state_dict["diffusion_model.layers.1.attention.o.alpha"] == 3.0
    assert len(state_dict) == 3 * len(modules)
    parsed = parse_lora(state_dict)
    assert parsed.layout == "comfy"
    for path, weights in parsed.modules.items():
        assert weights.down is modules[path].down
        assert weights.up is modules[path].up


@pytest.mark.parametrize(
    ("shapes", "layout", "says"),
    [
        ({}, "comfy", "nothing to save"),
        ({"layers.0.attention.o": (16, 16)}, "fal", "at least one attention.qkv"),
        ({"layers.0.attention.o": (16, 16), "input_proj": (16, 8)}, "comfy", "outside the blocks .input_proj."),
        ({"layers.0.attention.o": (16, 16)}, "kohya", "cannot be saved as kohya"),
        ({"layers.0.attention.qkv": (50, 16)}, "diffusers", "no multiple of 3"),
    ],
)
def test_export_refuses_what_loaders_would(shapes: dict, layout: str, says: str) -> None:
    with pytest.raises(SaveFailed, match=says):
        export_lora(random_modules(shapes), layout)


def test_export_refuses_other_types() -> None:
    with pytest.raises(SaveFailed, match="float64"):
        export_lora(random_modules(), "comfy", dtype=torch.float64)
