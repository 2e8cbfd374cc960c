"""Encode a dataset once: images through the VAE, captions through the text encoder and the text projection.

Everything is cached on disk by content: image bytes, crop and VAE on one side; caption, text encoder and the model's
two text layers on the other. A second run over the same data loads neither VAE nor text encoder. While one image is
encoded, the next ones are read and decoded.

Shapes: L text tokens, D model width, C latent channels (128), H W latent size (pixels / 16).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..dataset import Dataset, Item, caption_for_crop, check_fit, read_ahead, resolve_resolution
from ..errors import DoesNotFit, NonFinite, WrongTextEncoder, WrongVae
from . import host
from .cache import EncodingCache
from .identity import patches_identity, weights_identity
from .latents import CHANNELS, LatentStatistics, ideogram_statistics
from .network import REAL_MIN_SIDE, REAL_WIDTH, compute_dtype, model_width, project_texts, text_layers, text_width

ENCODING_VERSION = 1
"""Part of every cache key; raised when the same input would be encoded differently."""

T = TypeVar("T")
_PROJECTED_AT_ONCE = 8
"""Captions whose features wait in main memory, up to 100 MB each, until the projection is brought to the device."""

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what)."""


@dataclasses.dataclass(frozen=True)
class EncodedItem:
    """One image of the training data; the keys are its place in the cache."""

    name: str
    caption: str
    latent_key: str
    text_key: str


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What a run trains on. Holds keys, not tensors: memory does not grow with the number of images."""

    items: tuple[EncodedItem, ...]
    width: int
    height: int
    cache: EncodingCache
    projection: str
    """Identity of the model layers that the text went through; training checks it against its own model."""
    vae_statistics: LatentStatistics
    default_caption: str
    newly_encoded: int
    name: str = ""
    """Of the dataset, for the people who look at the run later."""

    def raw_latent(self, index: int) -> Tensor:
        """Raw VAE mean of an item: (C, H, W) float32."""
        return self.cache.load(self.items[index].latent_key)

    def text(self, index: int) -> Tensor:
        """Projected text features of an item: (L, D)."""
        return self.cache.load(self.items[index].text_key)

    def statistics(self, source: str) -> LatentStatistics:
        """The normalisation to train with: `ideogram` or `vae`."""
        return self.vae_statistics if source == "vae" else ideogram_statistics()

    @property
    def fingerprint(self) -> str:
        """Hex digest of everything that the items are made of, in order."""
        keys = "".join(item.latent_key + item.text_key for item in self.items)
        return hashlib.sha256(keys.encode()).hexdigest()


def encode_dataset(
    dataset: Dataset,
    *,
    width: int,
    height: int,
    vae: Any,
    clip: Any,
    patcher: Any,
    cache_folder: Path,
    move_boxes: bool = True,
    progress: Progress = lambda done, total, what: None,
) -> TrainingData:
    """Encode what is not in the cache yet and return the training data.

    `vae`, `clip` and `patcher` are ComfyUI's VAE, CLIP and MODEL objects. Raises `WrongVae`, `WrongTextEncoder`,
    `WrongModel`, `ResolutionRejected`, `ImageTooSmall`, `ImageUnreadable`, `NonFinite`, `DoesNotFit` and `SaveFailed`.
    """
    min_side = REAL_MIN_SIDE if model_width(patcher) == REAL_WIDTH else 16
    resolve_resolution(dataset, f"{width}x{height}", min_side=min_side)
    check_fit(dataset, width, height)
    statistics = vae_statistics(vae)
    cache = EncodingCache(cache_folder)
    cache.remove_leftovers()

    latent_keys, new_images = _encode_images(dataset, (width, height), vae, statistics, cache, progress)
    captions = [caption_for_crop(item, width, height, move_boxes=move_boxes) for item in dataset.items]
    text_keys, new_captions = _encode_captions(captions, clip, patcher, cache, progress)

    return TrainingData(
        items=tuple(
            EncodedItem(item.name, caption, latent_key, text_keys[caption])
            for item, caption, latent_key in zip(dataset.items, captions, latent_keys, strict=True)
        ),
        width=width,
        height=height,
        cache=cache,
        projection=projection_identity(patcher),
        vae_statistics=statistics,
        default_caption=next(
            (item.caption for item in dataset.items if item.caption_source in ("default", "forced")), ""
        ),
        newly_encoded=new_images + new_captions,
        name=dataset.name,
    )


def projection_identity(patcher: Any) -> str:
    """Identity of the two layers that text features pass before the first block, and of the dtype they compute in."""
    tensors = {
        f"{index}.{key}": value
        for index, layer in enumerate(text_layers(patcher))
        for key, value in layer.state_dict().items()
    }
    return _digest(weights_identity(tensors), str(compute_dtype(patcher)))


def vae_statistics(vae: Any) -> LatentStatistics:
    """The batch-norm statistics by which ComfyUI normalises the connected VAE's latents. Raises `WrongVae`."""
    norm = getattr(vae.first_stage_model, "bn", None)
    if norm is None or norm.running_mean.numel() != CHANNELS:
        raise WrongVae(
            "The connected VAE is not the FLUX.2 VAE that Ideogram 4 uses. "
            "Load flux2-vae.safetensors with Load VAE and connect that."
        )
    # ComfyUI normalises in the VAE's dtype, and casts these buffers to it only once the VAE is loaded.
    mean, variance = (buffer.to(vae.vae_dtype).float().cpu() for buffer in (norm.running_mean, norm.running_var))
    return LatentStatistics(mean.clone(), torch.sqrt(variance + vae.first_stage_model.bn_eps))


def _in_memory(encode: Callable[[], T], what: str) -> T:
    """Call `encode`. Raises `DoesNotFit` when the device runs out of memory."""
    try:
        return encode()
    except Exception as error:
        # Boundary with the device: only its out-of-memory signal is translated, everything else passes unchanged.
        if not host.is_out_of_memory(error):
            raise
        reason = str(error).split("\n")[0]
    # Raised outside the handler, because the caught exception keeps every tensor of its frames alive.
    host.empty_cache()
    raise DoesNotFit(
        f"Encoding {what} does not fit on the device ({reason}). What is encoded already is kept: free some memory, or "
        "start ComfyUI with --cpu-vae or --lowvram, and run again."
    )


# ---- images --------------------------------------------------------------------------------------------------


def _encode_images(
    dataset: Dataset,
    size: tuple[int, int],
    vae: Any,
    statistics: LatentStatistics,
    cache: EncodingCache,
    progress: Progress,
) -> tuple[list[str], int]:
    """Cache key of every image, in order, and how many were not cached yet."""
    vae_identity = _digest(weights_identity(dict(vae.first_stage_model.named_parameters())), str(vae.vae_dtype))
    keys, new, coming = [], 0, set()

    def key_of(content_hash: str) -> str:
        return _digest("image", content_hash, f"{size[0]}x{size[1]}", vae_identity)

    def wanted(content_hash: str) -> bool:
        # On the reading thread: the same picture may come again before its first copy is in the cache.
        key = key_of(content_hash)
        if key in coming or key in cache:
            return False
        coming.add(key)
        return True

    with closing(read_ahead(dataset, *size, wanted=wanted)) as images:
        for index, item in enumerate(dataset.items):
            host.raise_if_interrupted()
            image = next(images)
            key = key_of(image.content_hash)
            if image.pixels is not None:
                encode = partial(_encode_image, item, image.pixels, vae, statistics)
                cache.store(key, _in_memory(encode, f"{item.name} at {size[0]}x{size[1]}"))
                new += 1
            keys.append(key)
            progress(index + 1, len(dataset.items), "image")
    if new:
        host.unload(vae.patcher)
    return keys, new


def _encode_image(item: Item, pixels: np.ndarray, vae: Any, statistics: LatentStatistics) -> Tensor:
    """Raw mean (C, H, W) of pixels (height, width, 3). Raises `WrongVae` and `NonFinite`."""
    height, width, _ = pixels.shape
    normalized = vae.encode(torch.from_numpy(pixels).float().div_(255.0).unsqueeze(0))
    # ComfyUI returns the mean of the posterior, normalised by the VAE's own statistics: undo that.
    raw = statistics.denormalize(normalized.float().cpu())[0]
    expected = (CHANNELS, height // 16, width // 16)
    if tuple(raw.shape) != expected:
        raise WrongVae(f"The VAE turned {item.name} into {tuple(raw.shape)} instead of {expected}. Connect flux2-vae.")
    if not raw.isfinite().all():
        raise NonFinite(
            f"The VAE produced NaN or infinite values for {item.name}. "
            "Start ComfyUI with --fp32-vae, or replace the image."
        )
    return raw


# ---- captions ------------------------------------------------------------------------------------------------


def _encode_captions(
    captions: Sequence[str], clip: Any, patcher: Any, cache: EncodingCache, progress: Progress
) -> tuple[dict[str, str], int]:
    """Cache key of every distinct caption, and how many were not cached yet."""
    encoder = _encoder_identity(clip)
    projection = projection_identity(patcher)
    keys = {caption: _digest("caption", caption, encoder, projection) for caption in dict.fromkeys(captions)}
    new = [caption for caption, key in keys.items() if key not in cache]
    done = len(keys) - len(new)
    progress(done, len(keys), "caption")
    for start in range(0, len(new), _PROJECTED_AT_ONCE):
        group = new[start : start + _PROJECTED_AT_ONCE]
        features = []
        for caption in group:
            host.raise_if_interrupted()
            encode = partial(_text_features, caption, clip, patcher)
            features.append(_in_memory(encode, f"the caption {caption[:80]!r}"))
        project = partial(project_texts, patcher, features)
        for caption, text in zip(group, _in_memory(project, "captions"), strict=True):
            cache.store(keys[caption], _checked_text(text[0], caption))
            done += 1
            progress(done, len(keys), "caption")
    if new:
        host.unload(clip.patcher)
    return keys, len(new)


def _text_features(caption: str, clip: Any, patcher: Any) -> Tensor:
    """Features (1, L, F) from the text encoder. Raises `WrongTextEncoder`."""
    features = clip.encode_from_tokens(clip.tokenize(caption))
    if features.ndim != 3 or features.shape[-1] != text_width(patcher):
        raise WrongTextEncoder(
            f"The connected text encoder gives features of width {features.shape[-1]}, Ideogram 4 needs "
            f"{text_width(patcher)}. Load qwen3vl_8b with Load CLIP and set its type to ideogram4."
        )
    return features


def _checked_text(text: Tensor, caption: str) -> Tensor:
    if not text.isfinite().all():
        raise NonFinite(f"The text encoder produced NaN or infinite values for the caption {caption[:80]!r}.")
    return text


def _encoder_identity(clip: Any) -> str:
    """Weights, and what is done with them: the same file gives other features under another type of Load CLIP."""
    kinds = " ".join(type(part).__qualname__ for part in (clip.cond_stage_model, clip.tokenizer))
    options = f"{kinds} {sorted(clip.tokenizer_options.items())}"
    if clip.patcher.backup:
        host.unload(clip.patcher)  # the weights in memory hold patches at this moment
    patches = patches_identity(clip.patcher.patches) if clip.patcher.patches else ""
    return _digest(weights_identity(clip.cond_stage_model.state_dict()), options, patches)


def _digest(*parts: str) -> str:
    digest = hashlib.sha256(f"v{ENCODING_VERSION}".encode())
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()
