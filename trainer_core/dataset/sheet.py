"""A dataset as a contact sheet: what will be done with every image, and what is wrong with it. No pixels here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from ..errors import ImageTooSmall, ResolutionRejected, SettingsError
from .captions import usable_default
from .crop import CropBox, crop_box
from .dataset import Dataset, Item
from .json_caption import check_json_caption
from .report import report
from .resolution import Resolution, check_fit, resolve_resolution

MAX_FINDINGS_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Mark:
    """Something to look at in one image."""

    kind: str
    """too_small, no_caption, json or near_duplicate"""
    text: str


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A dataset with the default caption of a node and the resolution of another."""

    dataset: Dataset
    resolution: Resolution | None
    """None where the one that is asked for cannot be used."""
    report: str
    problem: str
    """Why training would be refused, "" where it would not."""


def make_sheet(dataset: Dataset, *, resolution: str, default_caption: str, force_default_caption: bool) -> Sheet:
    """The sheet of a dataset that was opened without a default caption and without `require_captions`."""
    problems = []
    try:
        default = usable_default(default_caption, force_default_caption)
    except SettingsError as error:
        problems.append(str(error))
        default, force_default_caption = "", False
    dataset = _with_default(dataset, default, force=force_default_caption)
    missing = sum(item.caption_source == "missing" for item in dataset.items)
    if missing:
        count = f"{missing} of {len(dataset.items)} images" if len(dataset.items) > 1 else "The image"
        problems.append(f"{count} {'has' if missing == 1 else 'have'} no caption. Write it here, or set a default.")
    resolved = None
    try:
        resolved = resolve_resolution(dataset, resolution)
        check_fit(dataset, resolved.width, resolved.height)
    except (ResolutionRejected, ImageTooSmall) as error:
        problems.append(str(error))
    return Sheet(dataset, resolved, report(dataset, resolution=resolved), "\n".join(problems))


def crop_at(item: Item, resolution: Resolution | None) -> CropBox | None:
    """The part of the image that is trained, None where the image is too small or there is no resolution."""
    if resolution is None or item.width < resolution.width or item.height < resolution.height:
        return None
    return crop_box(item.width, item.height, resolution.width, resolution.height)


def marks(sheet: Sheet, index: int, twins: Sequence[int | None] | None) -> Iterator[Mark]:
    """What is wrong with an image of the sheet; `twins` as from `similar.twins`, None while they are not known."""
    item = sheet.dataset.items[index]
    resolution = sheet.resolution
    if resolution is not None and crop_at(item, resolution) is None:
        size = f"{item.width}x{item.height}"
        yield Mark("too_small", f"Too small: {size} pixels, and {resolution.width}x{resolution.height} are trained.")
    if item.caption_source == "missing":
        yield Mark("no_caption", "No caption.")
    findings = check_json_caption(item.caption)
    if findings:
        more = len(findings) - MAX_FINDINGS_SHOWN
        shown = "; ".join(findings[:MAX_FINDINGS_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        yield Mark("json", f"JSON caption: {shown}.")
    twin = twins[index] if twins is not None else None
    if twin is not None:
        yield Mark("near_duplicate", f"Nearly the same picture as {sheet.dataset.items[twin].name}.")


def _with_default(dataset: Dataset, default: str, *, force: bool) -> Dataset:
    """As `open_dataset` would have given out the default caption."""
    if not default:
        return dataset
    items = tuple(
        dataclasses.replace(item, caption=default, caption_source="forced" if force else "default", original_caption="")
        if force or item.caption_source == "missing"
        else item
        for item in dataset.items
    )
    return dataclasses.replace(dataset, items=items, default_caption=default)
