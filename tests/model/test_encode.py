"""Encoding once: what is reused, what is not, and what a damaged or full disk does."""

from __future__ import annotations

import errno
import io
import threading
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import dataset_zip, picture
from ideogram4_lora_trainer.trainer_core.dataset import ahead, load_pixels, open_dataset
from ideogram4_lora_trainer.trainer_core.errors import (
    DoesNotFit,
    ImageUnreadable,
    ResolutionRejected,
    SaveFailed,
    TrainingDataMismatch,
)
from ideogram4_lora_trainer.trainer_core.model import cache, encode, host
from ideogram4_lora_trainer.trainer_core.model.identity import weights_identity


@pytest.fixture
def encoded(tiny_model: Callable[..., Any], tiny_clip: Any, tiny_vae: Any, tmp_path: Path) -> Callable[..., Any]:
    """`encoded(fmt, size, default_caption)` -> training data of three pictures, all with one cache folder."""

    def run(
        fmt: str = "bf16", size: tuple[int, int] = (64, 64), caption: str = "", archive: bytes | None = None
    ) -> Any:
        archive = archive or dataset_zip()
        dataset = open_dataset(archive, name="set", default_caption=caption, force_default_caption=bool(caption))
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


# ---- images are read ahead -----------------------------------------------------------------------------------


@pytest.fixture
def quick_vae(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for the VAE, and gives the names of the images that it encoded."""
    names: list[str] = []

    def encode_image(item: Any, pixels: Any, *_: Any) -> torch.Tensor:
        names.append(item.name)
        return torch.from_numpy(pixels).float().mean().expand(128, 4, 4)

    monkeypatch.setattr(encode, "_encode_image", encode_image)
    return names


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that were decoded."""
    names: list[str] = []
    original = ahead.fit_pixels

    def fit_pixels(data: bytes, item: Any, *size: int) -> Any:
        names.append(item.name)
        return original(data, item, *size)

    monkeypatch.setattr(ahead, "fit_pixels", fit_pixels)
    return names


def zip_of(pictures: list[bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for index, data in enumerate(pictures):
            archive.writestr(f"{index:02}.png", data)
    return buffer.getvalue()


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ideogram4-images")]


def test_what_is_read_ahead_is_encoded_as_if_it_were_not(encoded: Callable[..., Any], tiny_vae: Any) -> None:
    data, dataset = encoded(size=(64, 48)), open_dataset(dataset_zip())
    for index, item in enumerate(dataset.items):
        with torch.inference_mode():
            latent = encode._encode_image(item, load_pixels(dataset, item, 64, 48), tiny_vae, data.vae_statistics)
        assert torch.equal(data.raw_latent(index), latent)


def test_the_next_images_are_decoded_while_one_is_encoded_and_no_more_than_these(
    encoded: Callable[..., Any], decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    count, may_encode, encoding = 7, threading.Event(), iter(range(7))
    original = ahead.read_image

    def read_image(*args: Any) -> Any:
        image = original(*args)
        if len(decoded) == 1 + ahead.LOOK_AHEAD:
            may_encode.set()
        return image

    def encode_image(*_: Any) -> torch.Tensor:
        assert may_encode.wait(timeout=60), "the next images are decoded only after this one is encoded"
        assert len(decoded) <= next(encoding) + 1 + ahead.LOOK_AHEAD
        assert len(reading_threads()) == 1
        return torch.zeros(128, 4, 4)

    monkeypatch.setattr(ahead, "read_image", read_image)
    monkeypatch.setattr(encode, "_encode_image", encode_image)
    encoded(archive=dataset_zip(count))
    assert len(decoded) == count
    assert not reading_threads()


def test_every_file_is_read_once_and_what_is_cached_is_not_decoded(
    encoded: Callable[..., Any], quick_vae: list[str], decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded(archive=dataset_zip(3))
    read: Counter[str] = Counter()
    original = ahead.Dataset.read
    monkeypatch.setattr(ahead.Dataset, "read", lambda self, item: read.update([item.name]) or original(self, item))
    encoded(archive=dataset_zip(5))
    assert read == Counter(f"set/{index:02}.png" for index in range(5))
    assert decoded == quick_vae == [f"set/{index:02}.png" for index in range(5)]


def test_a_picture_that_comes_twice_is_encoded_once(
    encoded: Callable[..., Any], quick_vae: list[str], decoded: list[str]
) -> None:
    data = encoded(archive=zip_of([picture(0), picture(0), picture(1), picture(0)]), caption="a disc")
    assert decoded == quick_vae == ["00.png", "02.png"]
    assert data.newly_encoded == 3  # two images and the caption
    assert data.items[0].latent_key == data.items[1].latent_key == data.items[3].latent_key != data.items[2].latent_key


def test_an_unreadable_image_is_told_in_its_turn(
    encoded: Callable[..., Any], quick_vae: list[str], decoded: list[str]
) -> None:
    pictures = [picture(index) for index in range(5)]
    broken = [*pictures[:2], pictures[2][:-30], pictures[3][:-30], pictures[4]]
    with pytest.raises(ImageUnreadable, match=r"^The image 02\.png is truncated"):
        encoded(archive=zip_of(broken), caption="a disc")
    assert quick_vae == ["00.png", "01.png"], "those before it are encoded and kept"
    assert not reading_threads()
    assert encoded(archive=zip_of(pictures), caption="a disc").newly_encoded == 4  # three images and the caption


def test_cancel_between_two_images_keeps_what_is_done_and_leaves_no_thread(
    encoded: Callable[..., Any], quick_vae: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management

    original, polls = host.raise_if_interrupted, iter(range(100))

    def press_cancel() -> None:
        if next(polls) == 2:
            comfy.model_management.interrupt_current_processing()
        original()

    with monkeypatch.context() as patch:
        patch.setattr(host, "raise_if_interrupted", press_cancel)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            encoded(archive=dataset_zip(6))
    assert not reading_threads()
    encoded(archive=dataset_zip(6))
    assert quick_vae == [f"set/{index:02}.png" for index in range(6)], "each once"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SaveFailed])
def test_whatever_ends_encoding_in_an_image_leaves_no_thread(
    encoded: Callable[..., Any], quick_vae: list[str], monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    original = cache.EncodingCache.store

    def store(self: Any, *args: Any) -> None:
        if len(quick_vae) == 3:
            raise kind("at the third image")
        original(self, *args)

    with monkeypatch.context() as patch, pytest.raises(kind, match="at the third image"):
        patch.setattr(cache.EncodingCache, "store", store)
        encoded(archive=dataset_zip(6))
    assert not reading_threads()
    encoded(archive=dataset_zip(6))
    assert quick_vae[3:] == [f"set/{index:02}.png" for index in range(2, 6)], "the first two were kept"
