"""Node: open a dataset and report on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..trainer_core.config import TrainSettings
from ..trainer_core.dataset import open_dataset, open_url, report
from ..trainer_core.errors import DatasetUnreadable, UserError
from ..trainer_core.model import host
from ..trainer_core.paths import PathOutsideRoot, resolve_inside, shown
from .feedback import show_text
from .types import DatasetSocket
from .values import as_text

NOTHING = "none"
_LISTING_DEPTH = 3
_IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


class Ideogram4LoadDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Ideogram4LoadDataset",
            display_name="Ideogram 4 Load Dataset",
            category="model/training/ideogram 4",
            description="Open a zip or folder of images with captions. Nothing is unpacked.",
            search_aliases=["lora dataset", "zip dataset", "training images", "ideogram dataset"],
            inputs=[
                io.Combo.Input(
                    "dataset",
                    options=list_datasets() or [NOTHING],
                    tooltip="A zip of images, or a folder of them, in ComfyUI's input folder. Each image may have a "
                    ".txt caption of the same name beside it.",
                ),
                io.String.Input(
                    "default_caption",
                    default="",
                    multiline=True,
                    tooltip="Caption for images that have no .txt file. Leave empty to be told which images lack one.",
                ),
                io.Boolean.Input(
                    "force_default_caption",
                    default=False,
                    tooltip="Use the default caption for every image, even where there is a .txt file.",
                ),
                io.String.Input(
                    "url",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="An https:// address of a zip, or a base64 data: URI. When filled in, it is used instead "
                    "of the dataset above. Downloaded once; change the address to fetch it again.",
                ),
            ],
            outputs=[
                DatasetSocket.Output(display_name="dataset", tooltip="The checked images and captions."),
                io.String.Output(display_name="report", tooltip="What was found, what was skipped and why."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, dataset: str | None, url: str | None = "") -> bool | str:
        # Naming `dataset` here lifts the check against the list, so that a file uploaded a moment ago is accepted.
        # A linked input is not known yet and comes as None.
        if url is None or url.strip() or dataset is None:
            return True
        try:
            dataset_path(dataset)
        except UserError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, dataset: str | None, url: str | None = "", **_: object) -> list[object]:
        # What a link brings is part of the graph's own signature.
        if url is None or url.strip() or dataset is None:
            return [url]
        return _stamp(dataset_path(dataset))

    @classmethod
    def execute(cls, dataset: str, default_caption: str, force_default_caption: bool, url: str = "") -> io.NodeOutput:
        url = as_text(url, "url").strip()
        as_text(default_caption, "default_caption")
        captions = {"default_caption": default_caption, "force_default_caption": force_default_caption}
        if url:
            # ComfyUI's temp folder is emptied at its next start, should a download be left there.
            folder = Path(folder_paths.get_temp_directory())
            folder.mkdir(parents=True, exist_ok=True)
            opened = open_url(url, folder=folder, progress=lambda _received: host.raise_if_interrupted(), **captions)
        else:
            opened = open_dataset(dataset_path(dataset), name=dataset, **captions)
        text = report(opened, steps=TrainSettings().steps)
        show_text(cls, text)
        return io.NodeOutput(opened, text)


def list_datasets() -> list[str]:
    """Zips and folders with images in ComfyUI's input folder, as relative paths with forward slashes."""
    root = Path(os.path.realpath(folder_paths.get_input_directory()))
    return sorted(_datasets_below(root, root, 0), key=str.casefold)


def _datasets_below(root: Path, folder: Path, depth: int) -> Iterator[str]:
    has_images = False
    for entry in _entries(folder):
        name = Path(entry.path).relative_to(root).as_posix()
        if entry.is_symlink() and not _is_inside(root, name):
            continue
        if entry.is_dir():
            if depth < _LISTING_DEPTH:
                yield from _datasets_below(root, Path(entry.path), depth + 1)
        elif entry.name.lower().endswith(".zip"):
            yield name
        elif entry.name.lower().endswith(_IMAGE_ENDINGS):
            has_images = True
    if has_images and folder != root:
        yield folder.relative_to(root).as_posix()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
    except OSError:
        # A folder that may not be read, or went away meanwhile, has nothing to offer.
        return []


def _is_inside(root: Path, name: str) -> bool:
    try:
        resolve_inside(root, name)
    except PathOutsideRoot:
        return False
    return True


def dataset_path(name: str) -> Path:
    """The zip or folder behind a combo value, checked again. Raises `UserError`."""
    root = Path(os.path.realpath(folder_paths.get_input_directory()))
    path = root if as_text(name, "dataset") == NOTHING else resolve_inside(root, name)
    if path == root:
        raise DatasetUnreadable(
            "No dataset is chosen. Put a zip of images and captions into ComfyUI's input folder, press R to refresh, "
            "and pick it."
        )
    if not path.exists():
        raise DatasetUnreadable(
            f"There is no dataset {shown(name)} in ComfyUI's input folder. Upload the zip again, or pick another."
        )
    return path


def _stamp(path: Path) -> list[object]:
    """Changes whenever the dataset may have changed: names, sizes and times, of a folder's files too."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [(p.as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
