"""The real loaders as judges: ComfyUI's LoRA code and diffusers' `load_lora_weights`, on tiny Ideogram 4 models."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import comfy.lora
import comfy.sd
import comfy.utils
import pytest
import torch
from comfy_ideogram4 import comfy_deltas, linear_shapes, tiny_comfy_model
from diffusers import Ideogram4Pipeline
from diffusers.utils import logging as diffusers_logging
from diffusers_ideogram4 import (
    load_lora,
    lora_deltas,
    tiny_transformer,
    to_latent,
    to_tokens,
    velocity,
)
from foreign_loras import fused_lora, split_lora
from ideogram4_lora_trainer.trainer_core.lora_files import (
    LoraWeights,
    match_modules,
    parse_lora,
    read_lora,
    save_lora,
)
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

HEADS = 2


@pytest.fixture(scope="module")
def patcher():
    return tiny_comfy_model(num_attention_heads=HEADS)


@pytest.fixture
def transformer(patcher):
    return tiny_transformer(patcher.model.diffusion_model.state_dict())


@pytest.fixture(scope="module")
def shapes(patcher) -> dict[str, tuple[int, int]]:
    return linear_shapes(patcher)


@pytest.fixture(autouse=True)
def no_complaints(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Both loaders only log what they leave out, so a warning fails every test here but the one about complaints."""
    diffusers_logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        yield
    diffusers_logging.disable_propagation()
    if "with_complaints" not in request.node.name:
        assert not [record.getMessage() for record in caplog.get_records("call")]


def trained(shapes: dict[str, tuple[int, int]], *, uneven: bool = True) -> dict[str, LoraWeights]:
    """Random updates; uneven: with other scales and ranks in some layers."""
    generator = torch.Generator().manual_seed(3)
    modules = {}
    for index, (path, (out, width)) in enumerate(shapes.items()):
        rank = 4 + 3 * (index % 3) * uneven
        down, up = torch.randn(rank, width, generator=generator), torch.randn(out, rank, generator=generator)
        modules[path] = LoraWeights(down, up, rank * (0.7 if uneven and index % 2 else 1.0))
    return modules


def assert_equal_deltas(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    assert sorted(ours) == sorted(theirs)
    for path, delta in theirs.items():
        error = (ours[path].double() - delta.double()).norm() / delta.double().norm()
        assert error <= tolerance, (path, float(error))


def deltas(modules: dict[str, LoraWeights]) -> dict[str, Tensor]:
    return {path: weights.delta() for path, weights in modules.items()}


# ---- our files in their loaders --------------------------------------------------------------------------------


def save(modules: dict[str, LoraWeights], folder: Path, layout: str, dtype: torch.dtype = torch.float32) -> Path:
    return save_lora(modules, folder=folder, stem=layout, layout=layout, metadata={"format": "pt"}, dtype=dtype)


@pytest.mark.parametrize("layout", ["comfy", "fal", "diffusers"])
def test_diffusers_applies_what_we_trained(layout: str, shapes, transformer, tmp_path: Path) -> None:
    modules = trained(shapes)
    load_lora(transformer, save(modules, tmp_path, layout))
    assert_equal_deltas(lora_deltas(transformer), deltas(modules))


def test_comfyui_applies_what_we_trained(shapes, patcher, tmp_path: Path) -> None:
    modules = trained(shapes)
    file = save(modules, tmp_path, "comfy")
    assert_equal_deltas(comfy_deltas(patcher, comfy.utils.load_torch_file(str(file), safe_load=True)), deltas(modules))


def test_comfy_and_fal_files_in_bf16_give_one_update(shapes, patcher, transformer, tmp_path: Path) -> None:
    modules = trained(shapes)
    comfy_file, fal_file = (save(modules, tmp_path, layout, torch.bfloat16) for layout in ("comfy", "fal"))
    load_lora(transformer, fal_file)
    in_comfy = comfy_deltas(patcher, comfy.utils.load_torch_file(str(comfy_file), safe_load=True))
    assert_equal_deltas(lora_deltas(transformer), in_comfy)
    assert_equal_deltas(deltas(read_lora(fal_file).modules), in_comfy)
    assert_equal_deltas(in_comfy, deltas(modules), tolerance=1e-2)


def test_both_models_with_the_lora_give_one_velocity(shapes, patcher, transformer, tmp_path: Path) -> None:
    modules = {path: LoraWeights(w.down, w.up / 500, w.alpha) for path, w in trained(shapes).items()}
    latent, text, sigma = inputs()
    load_lora(transformer, save(modules, tmp_path, "fal"))
    state_dict = comfy.utils.load_torch_file(str(save(modules, tmp_path, "comfy")), safe_load=True)
    patched, _ = comfy.sd.load_lora_for_models(patcher, None, state_dict, 1.0, 0.0)
    with torch.no_grad():
        before = patcher.model.diffusion_model(latent, sigma, context=text)
        patched.patch_model()
        try:
            after = patched.model.diffusion_model(latent, sigma, context=text)
        finally:
            patched.unpatch_model()
        theirs = velocity(transformer, latent, text, sigma)
    assert (after - theirs).norm() / after.norm() < 1e-4
    assert (after - before).norm() / before.norm() > 0.05, "the LoRA must matter for this test to mean anything"


def test_modulation_alone_loads_in_both(shapes, patcher, transformer, tmp_path: Path) -> None:
    modules = trained({path: shape for path, shape in shapes.items() if path.endswith("adaln_modulation")})
    load_lora(transformer, save(modules, tmp_path, "diffusers"))
    assert_equal_deltas(lora_deltas(transformer), deltas(modules))
    file = save(modules, tmp_path, "comfy")
    assert_equal_deltas(comfy_deltas(patcher, comfy.utils.load_torch_file(str(file), safe_load=True)), deltas(modules))


# ---- their files, read by us and by their own loader -------------------------------------------------------------


@pytest.mark.parametrize("layout", ["comfy", "kohya"])
@pytest.mark.parametrize("alpha", [None, 1.0, 4.0])
def test_we_read_fused_files_as_comfyui_does(layout: str, alpha: float | None, shapes, patcher) -> None:
    state_dict, _ = fused_lora(layout, shapes, alpha=alpha)
    parsed = parse_lora(state_dict)
    assert_equal_deltas(deltas(parsed.modules), comfy_deltas(patcher, state_dict))
    assert str(match_modules(parsed.modules, shapes)) == f"{len(shapes)} of {len(shapes)} modules matched"


@pytest.mark.parametrize(
    ("layout", "alpha"), [("comfy", 1.0), ("comfy", None), ("fal", 1.0), ("fal", None), ("bare", 1.0)]
)
def test_we_read_fused_files_as_diffusers_does(layout: str, alpha: float | None, shapes, transformer, tmp_path) -> None:
    state_dict, _ = fused_lora(layout, shapes, alpha=alpha)
    save_file(state_dict, tmp_path / "lora.safetensors")
    load_lora(transformer, tmp_path / "lora.safetensors")
    assert_equal_deltas(deltas(read_lora(tmp_path / "lora.safetensors").modules), lora_deltas(transformer))


@pytest.mark.parametrize("ranks", [(4, 4, 4), (2, 3, 5)])
@pytest.mark.parametrize("parts", ["qkv", "qv"])
def test_we_read_split_files_as_diffusers_does(ranks: tuple, parts: str, shapes, transformer, tmp_path: Path) -> None:
    state_dict, _ = split_lora(shapes, ranks=ranks, parts=parts)
    save_file(state_dict, tmp_path / "lora.safetensors")
    load_lora(transformer, tmp_path / "lora.safetensors")
    assert_equal_deltas(deltas(read_lora(tmp_path / "lora.safetensors").modules), lora_deltas(transformer))


@pytest.mark.parametrize(
    "config",
    [
        {"r": 4, "lora_alpha": 4},
        {"r": 4, "lora_alpha": 10},
        {"r": 4, "lora_alpha": 2, "use_rslora": True},
        {"r": 4, "lora_alpha": 4, "alpha_pattern": {"layers.1.attention.to_k": 3, "w2": 8, "adaln_modulation": 1}},
        {"r": 4, "lora_alpha": 4, "rank_pattern": {"^layers.0.attention.to_v": 7, "w1": 2}},
    ],
)
def test_we_honour_the_header_that_diffusers_writes(config: dict, transformer, tmp_path: Path) -> None:
    targets = ["to_q", "to_k", "to_v", "to_out.0", "w1", "w2", "w3", "layers.0.adaln_modulation"]
    transformer.add_adapter(LoraConfig(target_modules=targets, **config), "trained")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in transformer.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(generator=generator)
    Ideogram4Pipeline.save_lora_weights(
        str(tmp_path),
        transformer_lora_layers=get_peft_model_state_dict(transformer, adapter_name="trained"),
        transformer_lora_adapter_metadata=transformer.peft_config["trained"].to_dict(),
        weight_name="theirs.safetensors",
    )
    parsed = read_lora(tmp_path / "theirs.safetensors")
    assert parsed.layout == "diffusers"
    assert_equal_deltas(deltas(parsed.modules), lora_deltas(transformer))


@pytest.mark.parametrize("layout", ["comfy", "fal", "diffusers", "kohya", "bare", "simpletuner", "diffsynth"])
def test_we_read_what_others_meet_with_complaints(
    layout: str, shapes, patcher, transformer, caplog, tmp_path: Path
) -> None:
    """The formats table of the docs, row by row: who loads what. We load all of it."""
    in_comfyui, in_diffusers = {
        "comfy": (True, "loads"),
        "fal": (False, "loads"),
        "diffusers": (False, "loads"),
        "kohya": (True, "ignores"),
        "bare": (False, "loads"),
        "simpletuner": (False, "refuses"),
        "diffsynth": (False, "refuses"),
    }[layout]
    state_dict, expected = split_lora(shapes) if layout == "diffusers" else fused_lora(layout, shapes)
    assert_equal_deltas(deltas(parse_lora(state_dict).modules), expected)

    key_map = comfy.lora.model_lora_keys_unet(patcher.model, {})
    assert len(comfy.lora.load_lora(state_dict, key_map)) == (len(shapes) if in_comfyui else 0)
    assert ("lora key not loaded" in caplog.text) != in_comfyui

    save_file(state_dict, tmp_path / "lora.safetensors")
    if in_diffusers == "refuses":
        with pytest.raises(ValueError, match=r"unsupported|[Tt]arget modules|not found|empty"):
            load_lora(transformer, tmp_path / "lora.safetensors")
    else:
        load_lora(transformer, tmp_path / "lora.safetensors")
        assert len(lora_deltas(transformer)) == (len(shapes) if in_diffusers == "loads" else 0)
        assert ("No LoRA keys associated" in caplog.text) == (in_diffusers == "ignores")


# ---- the oracle itself ---------------------------------------------------------------------------------------


def inputs(batch: int = 2, height: int = 5, width: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(9)
    latent = torch.randn(batch, 128, height, width, generator=generator)
    text = torch.randn(batch, 11, 13 * 32, generator=generator)
    return latent, text, torch.linspace(0.9, 0.2, batch)


@pytest.mark.parametrize("size", [(1, 4, 4), (2, 5, 7), (3, 2, 9)])
def test_both_models_give_one_velocity(size: tuple[int, int, int], patcher, transformer) -> None:
    latent, text, sigma = inputs(*size)
    with torch.no_grad():
        ours = patcher.model.diffusion_model(latent, sigma, context=text)
        theirs = velocity(transformer, latent, text, sigma)
        flipped = velocity(transformer, latent, text, 1 - sigma)
    assert (ours - theirs).norm() / ours.norm() < 1e-4
    assert (ours - flipped).norm() / ours.norm() > 1e-2


def test_velocity_of_diffusers_has_gradients(transformer) -> None:
    transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    latent, text, sigma = inputs()
    velocity(transformer, latent, text, sigma).square().mean().backward()
    grads = [parameter.grad for name, parameter in transformer.named_parameters() if "lora_B" in name]
    assert len(grads) == 2
    assert all(grad.abs().sum() > 0 for grad in grads)


def test_tokens_follow_comfyuis_patch_order(patcher) -> None:
    latent = inputs()[0]
    tokens = to_tokens(latent)
    assert torch.equal(tokens, patcher.model.diffusion_model._img_to_tokens(latent))
    assert torch.equal(to_latent(tokens, 5, 7), latent)
