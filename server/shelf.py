"""Datasets that are being looked at: found by id, opened once, and their pictures made small.

Everything here may take long and is called on threads. All of it is kept in memory and bounded; nothing is written.
Covered: ids that are no dataset's, datasets that change or vanish while they are looked at. Images and archives are
judged where they are read, in `trainer_core/dataset`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

import folder_paths
from PIL import Image

from ..trainer_core.dataset import Dataset, decode_image, open_dataset
from ..trainer_core.dataset.library import corrections_stamp, data_stamp, dataset_path, list_datasets
from ..trainer_core.errors import DatasetUnreadable, ImageUnreadable, UserError
from .guard import Refusal

MAX_OPENED = 3
MAX_PICTURES_BYTES = 64 * 2**20
"""Five thousand thumbnails."""
MAX_DECODING = 2
"""Images at a time: one of the largest takes 400 MB while it is decoded."""
STAMP_TTL_S = 2.0
"""Every file of a folder is looked at to see whether it has changed; a zip is one file, and is looked at every time."""
SIDES = {"thumb": 256, "large": 1600}
"""Pixels of the longer side."""

T = TypeVar("T")


def input_folder() -> Path:
    return Path(folder_paths.get_input_directory())


def entry_of(root: Path, name: str) -> dict[str, str]:
    """id, name and kind of a dataset in the folder `root`, as programs get them."""
    kind = "folder" if (root / name).is_dir() else "zip"
    return {"id": hashlib.sha256(name.encode(errors="replace")).hexdigest()[:32], "name": name, "kind": kind}


@dataclasses.dataclass(frozen=True)
class Opened:
    """A dataset as it was at one moment, without default captions."""

    name: str
    path: Path
    data: str
    """Changes with the zip or folder, not with the corrected captions."""
    version: str
    """Changes with both; begins with `data`."""
    dataset: Dataset


class Recent(Generic[T]):
    """What was used last, up to a weight in all. Threads may share it."""

    def __init__(self, limit: int, weight: Callable[[T], int] = lambda _: 1) -> None:
        self._limit, self._weight, self._total = limit, weight, 0
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> T | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: T) -> T:
        with self._lock:
            if key in self._values:
                self._total -= self._weight(self._values.pop(key))
            self._values[key] = value
            self._total += self._weight(value)
            while self._total > self._limit and self._values:
                self._total -= self._weight(self._values.popitem(last=False)[1])
        return value

    def drop(self, key: Hashable) -> None:
        with self._lock:
            if key in self._values:
                self._total -= self._weight(self._values.pop(key))


class Shelf:
    """The datasets below one folder."""

    def __init__(self, root: Callable[[], Path]) -> None:
        self._root = root  # asked every time: ComfyUI can be given another folder
        self._names: dict[str, str] = {}
        self._stamps: Recent[tuple[float, str]] = Recent(64)
        self._opened: Recent[Opened] = Recent(MAX_OPENED)
        self._pictures: Recent[bytes] = Recent(MAX_PICTURES_BYTES, len)
        self._opening = threading.Lock()
        self._decoding = threading.Semaphore(MAX_DECODING)

    def entries(self) -> list[dict[str, str]]:
        """id, name and kind of every dataset."""
        root = self._root()
        entries = [entry_of(root, name) for name in list_datasets(root)]
        self._names = {entry["id"]: entry["name"] for entry in entries}
        return entries

    def open(self, dataset_id: str) -> Opened:
        """The dataset as it is now. Raises `Refusal` for an unknown id, and as `open_dataset`."""
        name, path = self._find(dataset_id)
        data = self._data(path)
        version = f"{data}-{_digest(corrections_stamp(path))}"
        found = self._opened.get(dataset_id)
        if found is None or found.version != version:
            with self._opening:  # one at a time: the pictures of a sheet are asked for all at once
                found = self._opened.get(dataset_id)
                if found is None or found.version != version:
                    dataset = open_dataset(path, name=name, require_captions=False)
                    found = self._opened.put(dataset_id, Opened(name, path, data, version, dataset))
        return found

    def forget(self, dataset_id: str) -> None:
        """Open the dataset anew next time: on a coarse clock its time may not tell that it was changed."""
        self._opened.drop(dataset_id)

    def picture(self, opened: Opened, index: int, size: str) -> bytes:
        """An image as JPEG, turned upright, at most `SIDES[size]` pixels on its longer side.

        Raises `ImageUnreadable` and `DatasetUnreadable`.
        """
        key = (opened.path, opened.data, index, size)
        found = self._pictures.get(key)
        if found is None:
            with self._decoding:
                found = self._pictures.put(key, _small_jpeg(opened.dataset, index, SIDES[size]))
        return found

    def _find(self, dataset_id: str) -> tuple[str, Path]:
        if dataset_id not in self._names:
            self.entries()
        name = self._names.get(dataset_id)
        if name is not None:
            try:
                path = dataset_path(self._root(), name)
            except UserError:
                path = None
            if path is not None and (path.is_dir() or path.suffix.lower() == ".zip"):
                return name, path
        raise Refusal(404, "not_found", "There is no such dataset in ComfyUI's input folder any more. Choose again.")

    def _data(self, path: Path) -> str:
        known = self._stamps.get(path)
        if known is not None and time.monotonic() - known[0] < STAMP_TTL_S:
            return known[1]
        try:
            digest = _digest(data_stamp(path))
        except OSError as error:
            raise DatasetUnreadable(f"{path.name} is being changed, or cannot be read. Try again.") from error
        if path.is_dir():
            self._stamps.put(path, (time.monotonic(), digest))
        return digest


def _small_jpeg(dataset: Dataset, index: int, side: int) -> bytes:
    item = dataset.items[index]
    image = decode_image(dataset.read(item), item.name)
    if image.size != (item.width, item.height):
        raise ImageUnreadable(f"The image {item.name} has changed. Open the dataset again.")
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _digest(stamp: object) -> str:
    return hashlib.sha256(json.dumps(stamp).encode(errors="replace")).hexdigest()[:20]
