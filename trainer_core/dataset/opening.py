"""Opening a dataset: list the files, pair and read the captions, check the first bytes of every image."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from ..errors import DatasetUnreadable, ImageUnreadable, MissingCaptions, NoImagesFound
from .archive import open_zip
from .captions import MAX_CAPTION_BYTES, MAX_CAPTIONS_BYTES, decode_caption, usable_default
from .dataset import CaptionSource, Container, Dataset, Item, read_whole
from .folder import open_folder
from .headers import read_header
from .images import MAX_IMAGE_BYTES
from .listing import UNMATCHED, Listing, StoredFile, flattening_warnings, sort_files
from .messages import MAX_NAMED, name_some
from .names import stem_of
from .refusal import Refused
from .remote import fetch_dataset

MAX_TOTAL_BYTES = 256 * 2**30
"""Of all images unpacked: as declared, and therefore as read, since reading never goes past what is declared."""
LISTING_TIMEOUT_S = 600
"""Ten thousand images take seconds, on a slow network drive minutes; a hostile archive must not take hours."""


def open_dataset(
    source: Path | bytes, *, name: str = "", default_caption: str = "", force_default_caption: bool = False
) -> Dataset:
    """Open a zip (a file, or its bytes) or a folder.

    `name` is what messages call it (default: the file's name). An image without a caption file, or with an empty one,
    gets `default_caption` ("" for none); with `force_default_caption` every image does.

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
    captions = _captions(container, listing, default, deadline, force=force_default_caption)
    sizes = _image_sizes(container, listing.images, deadline)
    items = tuple(
        Item(image.name, *caption, *size) for image, caption, size in zip(listing.images, captions, sizes, strict=True)
    )
    return Dataset(container.label, items, listing.skipped, flattening_warnings(listing), default, container)


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


def _captions(
    container: Container, listing: Listing, default: str, deadline: float, *, force: bool
) -> list[tuple[str, CaptionSource]]:
    """(text, source) of every image, in order."""
    if force:
        return [(default, "forced")] * len(listing.images)
    captions: list[tuple[str, CaptionSource]] = []
    missing = []
    for image in listing.images:
        _check_time(container.label, listing.images, deadline)
        file = listing.captions.get(stem_of(image.name))
        text = _caption_text(container, file) if file else ""
        if not text.strip() and not default:
            missing.append(f"{image.name} (its .txt is empty)" if file else image.name)
        captions.append((text, "file") if text.strip() else (default, "default"))
    if missing:
        count = f"{len(missing)} of {len(listing.images)} images"
        raise MissingCaptions(
            f"{container.label}: {count} without a caption: {name_some(missing)}. "
            f"Put a .txt with the same base name beside each, or set default_caption.{_unmatched(listing)}"
        )
    return captions


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
