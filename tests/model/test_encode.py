"""Encoding once: what is reused, what is not, and what a damaged or full disk does."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import dataset_zip
from ideogram4_lora_trainer.trainer_core.dataset import open_dataset
from ideogram4_lora_trainer.trainer_core.errors import DoesNotFit, ResolutionRejected, SaveFailed, TrainingDataMismatch
from ideogram4_lora_trainer.trainer_core.model import cache, encode
from ideogram4_lora_trainer.trainer_core.model.identity import weights_identity


@pytest.fixture
def encoded(tiny_model: Callable[..., Any], tiny_clip: Any, tiny_vae: Any, tmp_path: Path) -> Callable[..., Any]:
    """`encoded(fmt, size, default_caption)` -> training data of three pictures, all with one cache folder."""

    def run(fmt: str = "bf16", size: tuple[int, int] = (64, 64), caption: str = "") -> Any:
        dataset = open_dataset(dataset_zip(), name="set", default_caption=caption, force_default_caption=bool(caption))
        width, height = size
        with torch.inference_mode():
            return encode.encode_dataset(
                dataset,
                width=width,
                height=height,
                vae=tiny_vae,
                clip=tiny_clip,
                patcher=tiny_model(fmt),
                cache_folder=tmp_path,
            )

    return run


def test_only_what_changed_is_encoded_again(encoded: Callable[..., Any]) -> None:
    first = encoded()
    assert first.newly_encoded == 6
    assert encoded().newly_encoded == 0
    assert encoded().fingerprint == first.fingerprint
    assert encoded(size=(64, 48)).newly_encoded == 3  # the images; the captions are the same
    one_caption = encoded(caption="a disc")
    assert one_caption.newly_encoded == 1  # one caption for three images
    assert one_caption.default_caption == "a disc"
    assert one_caption.fingerprint != first.fingerprint


def test_text_belongs_to_the_projection_it_went_through(encoded: Callable[..., Any]) -> None:
    assert encoded("bf16").projection != encoded("fp8_scaled").projection
    assert encoded("fp8_scaled").newly_encoded == 0
    assert encoded("bf16").items != encoded("fp8_scaled").items


def test_latents_and_text_have_the_networks_shapes(encoded: Callable[..., Any]) -> None:
    data = encoded(size=(64, 48))
    assert data.raw_latent(0).shape == (128, 3, 4)
    assert data.text(0).shape[1] == 256


def test_a_size_off_the_grid_is_refused_before_encoding(encoded: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ResolutionRejected):
        encoded(size=(60, 64))
    assert not list(tmp_path.iterdir())


def test_a_damaged_entry_is_encoded_anew_and_refused_when_read(encoded: Callable[..., Any], tmp_path: Path) -> None:
    data = encoded()
    (path,) = tmp_path.rglob(f"{data.items[0].latent_key}.safetensors")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TrainingDataMismatch, match=r"cannot be used .*Run again"):
        data.raw_latent(0)
    assert encoded().newly_encoded == 1
    assert torch.isfinite(data.raw_latent(0)).all()


@pytest.mark.parametrize(
    ("part", "words"),
    [("_encode_image", r"00\.png at 64x64"), ("_text_features", "caption '"), ("project_texts", "captions")],
)
def test_out_of_memory_says_what_did_not_fit_and_keeps_what_is_done(
    encoded: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, part: str, words: str
) -> None:
    def fail(*_args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr(encode, part, fail)
        with pytest.raises(DoesNotFit, match=rf"Encoding .*{words}.* does not fit .*2.00 GiB.* run again") as caught:
            encoded()
        assert caught.value.__context__ is None, "the original exception would keep the device's tensors alive"
    data = encoded()
    assert data.newly_encoded == (6 if part == "_encode_image" else 3)


def test_the_text_layers_are_brought_to_the_device_once_for_many_captions(
    encoded: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    original = encode.project_texts
    monkeypatch.setattr(encode, "project_texts", lambda p, texts: calls.append(len(texts)) or original(p, texts))
    data = encoded()
    assert calls == [3]
    monkeypatch.setattr(encode, "_PROJECTED_AT_ONCE", 2)
    before = [data.text(index).clone() for index in range(3)]
    for item in data.items:
        (path,) = data.cache.folder.rglob(f"{item.text_key}.safetensors")
        path.unlink()
    again = encoded()
    assert calls == [3, 2, 1]
    assert all(torch.equal(again.text(index), text) for index, text in enumerate(before))


def test_a_damaged_entry_changes_what_comfyui_compares(encoded: Callable[..., Any], tmp_path: Path) -> None:
    """So that ComfyUI does not hand out the keys of a result whose files are gone."""
    data = encoded()
    before = data.cache.renewal
    assert data.cache.renewal == before
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(TrainingDataMismatch):
        data.text(0)
    assert data.cache.renewal != before


def test_a_full_disk_is_told_and_leaves_no_partial_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_up(_tensors: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "save_file", fill_up)
    store = cache.EncodingCache(tmp_path)
    with pytest.raises(SaveFailed, match=r"Could not write 4,096 bytes .*No space left.* Free some disk space"):
        store.store("ab" * 32, torch.zeros(1024))
    assert "ab" * 32 not in store
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_identity_depends_on_names_shapes_dtypes_and_values_only() -> None:
    weights = {"a": torch.arange(100.0), "b": torch.zeros(3, 4), "c": torch.tensor(1.0), "d": torch.zeros(0)}
    same = {name: weights[name].clone() for name in reversed(weights)}
    assert weights_identity(weights) == weights_identity(same)
    for changed in (
        {"a": torch.arange(100.0) + 1},
        {"b": torch.zeros(4, 3)},
        {"c": torch.tensor(2.0)},
        {"b": torch.zeros(3, 4, dtype=torch.bfloat16)},
        {"e": torch.zeros(1)},
    ):
        assert weights_identity(weights) != weights_identity({**weights, **changed})
