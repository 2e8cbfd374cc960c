"""What a dataset holds and what will be done with it, as text for the person at the screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .crop import crop_box
from .dataset import Dataset, Item
from .json_caption import check_json_caption, move_boxes
from .messages import name_some
from .resolution import Resolution

MAX_LISTED = 20
"""Files listed under one heading."""
MAX_ASPECT = 6
"""Ideogram 4 was made for pictures up to 6:1."""

_SOURCES = {
    "file": "from text files",
    "default": "default caption",
    "forced": "default caption, forced",
    "corrected": "corrected in ComfyUI",
    "missing": "without any",
}


def report(
    dataset: Dataset, *, resolution: Resolution | None = None, steps: int | None = None, items_per_step: int = 1
) -> str:
    """A readable summary: counts, sizes, resolution, captions, findings, skipped files and steps per image.

    `resolution` is what `resolve_resolution` chose; `steps` are optimiser steps, each over `items_per_step` images.
    """
    blocks = [_overview(dataset)]
    if resolution is not None:
        blocks.append(_resolution(dataset, resolution))
    if steps is not None:
        blocks.append(_steps(dataset, steps, items_per_step))
    blocks += [_json_captions(dataset, resolution), _warnings(dataset), _skipped(dataset)]
    return "\n\n".join("\n".join(lines) for lines in (list(block) for block in blocks) if lines)


def _overview(dataset: Dataset) -> Iterator[str]:
    yield f"{dataset.name}: {_count(len(dataset.items), 'image')}"
    yield f"Sizes: {_sizes(dataset)}"
    sources = Counter(_SOURCES[item.caption_source] for item in dataset.items)
    yield "Captions: " + ", ".join(f"{count} {words}" for words, count in sources.most_common())
    defaulted = [item.name for item in dataset.items if item.caption_source == "default"]
    if defaulted:
        yield f"  no caption of their own: {name_some(defaulted)}"


def _sizes(dataset: Dataset) -> str:
    """The sizes by how common they are, and the extremes where there are many."""
    sizes = Counter((item.width, item.height) for item in dataset.items)
    shown = [f"{width}x{height} ({count})" for (width, height), count in sizes.most_common()]
    if len(shown) <= 4:
        return ", ".join(shown)
    widths, heights = zip(*sizes, strict=True)
    return (
        f"{len(sizes)} different, widths {min(widths)} to {max(widths)}, heights {min(heights)} to {max(heights)}; "
        f"most common {', '.join(shown[:3])}"
    )


def _resolution(dataset: Dataset, resolution: Resolution) -> Iterator[str]:
    width, height = resolution.width, resolution.height
    yield f"Resolution: {width}x{height} ({resolution.reason})"
    if max(width, height) > MAX_ASPECT * min(width, height):
        yield f"  beyond {MAX_ASPECT}:1, more than the model was made for"
    small = [item for item in dataset.items if _too_small(item, resolution)]
    if small:
        names = name_some([f"{item.name} ({item.width}x{item.height})" for item in small])
        yield f"  too small, and images are never enlarged: {names}"
    kept = {item.name: _kept(item, resolution) for item in dataset.items if not _too_small(item, resolution)}
    if kept:
        worst = min(kept, key=lambda name: kept[name])
        yield f"  the centre crop keeps {kept[worst]:.0%} of {worst} and no less of any other"


def _too_small(item: Item, resolution: Resolution) -> bool:
    return item.width < resolution.width or item.height < resolution.height


def _kept(item: Item, resolution: Resolution) -> float:
    box = crop_box(item.width, item.height, resolution.width, resolution.height)
    return box.width * box.height / (item.width * item.height)


def _steps(dataset: Dataset, steps: int, items_per_step: int) -> Iterator[str]:
    each = steps * items_per_step / len(dataset.items)
    batch = f" of {items_per_step} images" if items_per_step != 1 else ""
    yield f"Steps: {_count(steps, 'step')}{batch}, so each image is seen {each:.4g} times"
    if each < 1:
        yield "  some images will not be seen at all"


def _json_captions(dataset: Dataset, resolution: Resolution | None) -> Iterator[str]:
    checked = {item.name: check_json_caption(item.caption) for item in dataset.items}
    json_count = sum(findings is not None for findings in checked.values())
    if not json_count:
        return
    off = {name: findings for name, findings in checked.items() if findings}
    yield f"JSON captions: {json_count}, of which {len(off)} deviate from the schema"
    for name, findings in list(off.items())[:MAX_LISTED]:
        yield f"  {name}: {'; '.join(findings)}"
    if len(off) > MAX_LISTED:
        yield f"  and {len(off) - MAX_LISTED} more captions"
    if resolution is not None:
        yield from _moved_boxes(dataset, resolution)


def _moved_boxes(dataset: Dataset, resolution: Resolution) -> Iterator[str]:
    moved = dropped = 0
    for item in dataset.items:
        if not _too_small(item, resolution):
            box = crop_box(item.width, item.height, resolution.width, resolution.height)
            caption = move_boxes(item.caption, item.width, item.height, box)
            moved, dropped = moved + caption.moved, dropped + caption.dropped
    if moved or dropped:
        yield f"  the crop moves {_count(moved, 'box', 'boxes')} and removes {_count(dropped, 'element')} outside it"


def _warnings(dataset: Dataset) -> Iterator[str]:
    for warning in dataset.warnings:
        yield f"Warning: {warning}"


def _skipped(dataset: Dataset) -> Iterator[str]:
    if not dataset.skipped:
        return
    yield f"Skipped: {_count(len(dataset.skipped), 'file')}"
    by_reason: dict[str, list[str]] = {}
    for skipped in dataset.skipped:
        by_reason.setdefault(skipped.reason, []).append(skipped.name)
    for reason, names in by_reason.items():
        yield f"  {reason}: {name_some(names, limit=MAX_LISTED)}"


def _count(number: int, singular: str, plural: str = "") -> str:
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
