"""Opening a dataset: list the files, pair and read the captions, check the first bytes of every image."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import DatasetUnreadable, ImageUnreadable, MissingCaptions, NoImagesFound
from .archive import open_zip
from .captions import MAX_CAPTION_BYTES, MAX_CAPTIONS_BYTES, decode_caption, usable_default
from .corrections import Correction, corrections_path, read_corrections
from .dataset import CaptionSource, Container, Dataset, Item, read_whole
from .folder import open_folder
from .headers import read_header
from .images import MAX_IMAGE_BYTES
from .listing import UNMATCHED, Listing, StoredFile, flattening_warnings, sort_files
from .messages import MAX_NAMED, name_some
from .names import natural_key, stem_of
from .refusal import Refused
from .remote import fetch_dataset

MAX_TOTAL_BYTES = 256 * 2**30
"""Of all images unpacked: as declared, and therefore as read, since reading never goes past what is declared."""
LISTING_TIMEOUT_S = 600
"""Ten thousand images take seconds, on a slow network drive minutes; a hostile archive must not take hours."""


def open_dataset(
    source: Path | bytes,
    *,
    name: str = "",
    default_caption: str = "",
    force_default_caption: bool = False,
    require_captions: bool = True,
) -> Dataset:
    """Open a zip (a file, or its bytes) or a folder.

    `name` is what messages call it (default: the file's name). Captions that were corrected in ComfyUI (see
    `corrections.py`) replace those of the dataset. An image without a caption file, or with an empty one, gets
    `default_caption` ("" for none); with `force_default_caption` every image does. Without `require_captions` an image
    may stay without any.

    Raises `DatasetUnreadable`, `NoImagesFound`, `MissingCaptions`, `ImageUnreadable`, and `SettingsError` where
    nothing but an empty default caption is to be forced.
    """
    default = usable_default(default_caption, force_default_caption)
    deadline = time.monotonic() + LISTING_TIMEOUT_S
    container = _open_container(source, name)
    listing = sort_files(container.files)
    if not listing.images:
        raise NoImagesFound(_no_images_message(container.label, listing))
    _check_declared_sizes(container.label, listing)
    warnings = flattening_warnings(listing)
    if force_default_caption:
        captions = [_Caption(default, "forced")] * len(listing.images)
    else:
        captions = _captions(container, listing, deadline)
        if not isinstance(source, (bytes, bytearray, memoryview)):
            captions, passed_over = _corrected(listing, captions, read_corrections(source))
            warnings += _passed_over_warning(source, passed_over)
        captions = [_Caption(default, "default") if default and not caption.text else caption for caption in captions]
    if require_captions:
        _require_captions(container.label, listing, captions)
    sizes = _image_sizes(container, listing.images, deadline)
    items = tuple(
        Item(image.name, caption.text, caption.source, *size, caption.original)
        for image, caption, size in zip(listing.images, captions, sizes, strict=True)
    )
    return Dataset(container.label, items, listing.skipped, warnings, default, container)


def open_url(
    url: str,
    *,
    folder: Path | None = None,
    default_caption: str = "",
    force_default_caption: bool = False,
    progress: Callable[[int], None] = lambda received_bytes: None,
) -> Dataset:
    """Open the zip behind an https URL or a base64 data URI that the user gave.

    A download is kept in `folder` (default: the system's for temporary files) for as long as the dataset exists.
    Raises as `remote.fetch_dataset` and `open_dataset`.
    """
    fetched = fetch_dataset(url, folder=folder, progress=progress)
    with contextlib.ExitStack() as cleanup:
        name = "The zip in the data URI"
        if isinstance(fetched, Path):
            name = "The downloaded zip"
            cleanup.callback(fetched.unlink, missing_ok=True)
        dataset = open_dataset(
            fetched, name=name, default_caption=default_caption, force_default_caption=force_default_caption
        )
        weakref.finalize(dataset, cleanup.pop_all().close)
    return dataset


def _open_container(source: Path | bytes, name: str) -> Container:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return open_zip(bytes(source), name or "The zip")
    path = Path(source).absolute()
    label = name or path.name
    if path.is_dir():
        return open_folder(path, label)
    if not path.is_file():
        raise DatasetUnreadable(f"{label} is neither a zip nor a folder, or is not there. Check its name.")
    return open_zip(path, label)


def _no_images_message(label: str, listing: Listing) -> str:
    message = f"{label} holds no .png, .jpg, .jpeg or .webp image. Add at least one."
    if listing.skipped:
        files = name_some([f"{skipped.name} ({skipped.reason})" for skipped in listing.skipped])
        message += f" Skipped: {files}."
    return message


def _check_declared_sizes(label: str, listing: Listing) -> None:
    """Refuse by what is declared before reading anything; reading stops at what is declared."""
    limits = [(image, MAX_IMAGE_BYTES) for image in listing.images]
    limits += [(caption, MAX_CAPTION_BYTES) for caption in listing.captions.values()]
    for file, max_bytes in limits:
        if file.size > max_bytes:
            raise DatasetUnreadable(f"{label}: the file {file.name} has more than {max_bytes:,} bytes. Shrink it.")
    if sum(image.size for image in listing.images) > MAX_TOTAL_BYTES:
        raise DatasetUnreadable(f"{label} holds more than {MAX_TOTAL_BYTES // 2**30} GiB of images. Split it.")
    if sum(caption.size for caption in listing.captions.values()) > MAX_CAPTIONS_BYTES:
        raise DatasetUnreadable(f"{label} holds more than {MAX_CAPTIONS_BYTES // 2**20} MiB of captions. Split it.")


def _check_time(label: str, images: tuple[StoredFile, ...], deadline: float) -> None:
    if time.monotonic() > deadline:
        raise DatasetUnreadable(
            f"{label}: checking {len(images)} images takes more than {LISTING_TIMEOUT_S} s. "
            "Copy it to a local disk, or split it."
        )


# ---- captions ------------------------------------------------------------------------------------------------


def _unmatched(listing: Listing) -> str:
    names = [skipped.name for skipped in listing.skipped if skipped.reason == UNMATCHED]
    return f" Captions that match no image: {name_some(names)}." if names else ""


@dataclasses.dataclass(frozen=True, slots=True)
class _Caption:
    text: str
    source: CaptionSource
    original: str = ""


def _captions(container: Container, listing: Listing, deadline: float) -> list[_Caption]:
    """What the text files say, in order of the images; white space alone counts as nothing."""
    captions = []
    for image in listing.images:
        _check_time(container.label, listing.images, deadline)
        file = listing.captions.get(stem_of(image.name))
        text = _caption_text(container, file) if file else ""
        captions.append(_Caption(text, "file") if text.strip() else _Caption("", "missing"))
    return captions


def _corrected(
    listing: Listing, captions: list[_Caption], corrections: Mapping[str, Correction]
) -> tuple[list[_Caption], list[str]]:
    """The captions with those corrections that belong to them, and the names of the others."""
    if not corrections:
        return captions, []
    left = dict(corrections)
    result = []
    for image, caption in zip(listing.images, captions, strict=True):
        correction = left.get(image.name)
        if correction is not None and correction.fits(caption.text, image.size):
            del left[image.name]
            caption = _Caption(correction.caption, "corrected", caption.text)  # noqa: PLW2901
        result.append(caption)
    return result, sorted(left, key=natural_key)


def _passed_over_warning(source: Path, names: list[str]) -> tuple[str, ...]:
    if not names:
        return ()
    return (
        f"{corrections_path(source).name} holds corrected captions that were made for other images or captions than "
        f"are in the dataset now, and they are passed over: {name_some(names)}.",
    )


def _require_captions(label: str, listing: Listing, captions: list[_Caption]) -> None:
    missing = [
        f"{image.name} (its .txt is empty)" if stem_of(image.name) in listing.captions else image.name
        for image, caption in zip(listing.images, captions, strict=True)
        if caption.source == "missing"
    ]
    if missing:
        count = f"{len(missing)} of {len(listing.images)} images"
        raise MissingCaptions(
            f"{label}: {count} without a caption: {name_some(missing)}. "
            f"Put a .txt with the same base name beside each, or set default_caption.{_unmatched(listing)}"
        )


def _caption_text(container: Container, file: StoredFile) -> str:
    try:
        return decode_caption(read_whole(container, file.name, MAX_CAPTION_BYTES))
    except Refused as refusal:
        raise DatasetUnreadable(f"{container.label}: the caption {file.name} {refusal}.") from None


# ---- image headers -------------------------------------------------------------------------------------------


def _image_sizes(container: Container, images: tuple[StoredFile, ...], deadline: float) -> list[tuple[int, int]]:
    """(width, height) as seen of every image, in order. Raises `ImageUnreadable` that tells of all unreadable ones."""
    sizes = []
    faults = []
    for image in images:
        _check_time(container.label, images, deadline)
        try:
            with contextlib.closing(container.chunks(image.name)) as chunks:
                sizes.append(read_header(chunks).size)
        except Refused as refusal:
            faults.append(f"The image {image.name} {refusal}.")
    if faults:
        more = f" And {len(faults) - MAX_NAMED} more images." if len(faults) > MAX_NAMED else ""
        raise ImageUnreadable(f"{container.label}: {' '.join(faults[:MAX_NAMED])}{more}")
    return sizes
