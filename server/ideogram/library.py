"""Datasets that were made through the API: plain folders below ComfyUI's input folder, which the dataset node lists.

What the API knows beside that (id, name, time) is one record each. All of this is called on threads.
Covered: names that are taken, or that cannot be a folder's; folders that were deleted, moved or replaced by a link
that leads out, whose datasets are gone from the list until they are back; datasets that were not made here, which are
never listed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...trainer_core.dataset.corrections import corrections_path
from ...trainer_core.dataset.folder import FolderContainer, open_folder
from ...trainer_core.dataset.names import is_system_file
from ...trainer_core.paths import NameRejected, PathOutsideRoot, resolve_inside, storable_parts
from ..api.settings import api_folder
from ..guard import Refusal
from ..shelf import input_folder
from ..upload_files import not_written
from . import records

FOLDER = "ideogram"
"""Of these datasets, in ComfyUI's input folder."""
MAX_FOLDER_BYTES = 60
_FORM = {"name": str, "folder": str, "created": float}
_NOT_IN_FOLDERS = re.compile(r"[^\w .()+-]+")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One dataset."""

    id: str
    name: str
    folder: str
    """Below the input folder, with forward slashes; as the dataset node lists it."""
    created: float


def records_folder() -> Path:
    return api_folder() / "datasets"


class Library:
    def __init__(self, root: Callable[[], Path] = input_folder, folder: Callable[[], Path] = records_folder) -> None:
        """root: ComfyUI's input folder. folder: where the records are. Both are asked every time."""
        self._root, self._records = root, folder

    def home(self) -> Path:
        """The folder that holds the datasets' folders, made if needed. Raises `Refusal` and `PathOutsideRoot`."""
        home = resolve_inside(self._root(), FOLDER)
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_written(error) from error
        return home

    def create(self, name: str) -> Entry:
        """A new, empty dataset. Raises `Refusal` and `PathOutsideRoot`."""
        records.require_place(self._records(), "datasets")
        folder = _make_folder(self.home(), _folder_name(name))
        entry = Entry(records.new_id(), name, f"{FOLDER}/{folder.name}", time.time())
        try:
            self._forget_folder(entry.folder)
            values = dataclasses.asdict(entry)
            records.write(self._records(), values.pop("id"), values)
        except BaseException:
            with contextlib.suppress(OSError):
                folder.rmdir()
            raise
        return entry

    def all(self) -> list[Entry]:
        """Those whose folder is there, the newest first."""
        entries = [Entry(**_known(values)) for values in records.read_all(self._records(), _FORM)]
        return [entry for entry in entries if self._path(entry) is not None]

    def find(self, dataset_id: str) -> tuple[Entry, Path]:
        """A dataset and its folder. Raises `Refusal`."""
        values = records.read(self._records(), dataset_id, _FORM)
        if values is None:
            raise Refusal(404, "not_found", "There is no dataset of that id here.")
        entry = Entry(**_known(values))
        path = self._path(entry)
        if path is None:
            message = f"The folder {entry.folder} was deleted from ComfyUI's input folder, or moved. Put it back."
            raise Refusal(404, "folder_gone", message)
        return entry, path

    def _path(self, entry: Entry) -> Path | None:
        with contextlib.suppress(PathOutsideRoot, OSError):
            path = resolve_inside(self._root(), entry.folder)
            home = os.path.realpath(self._root() / FOLDER)
            # A link may have taken its place, and lead to what was not made here.
            return (
                path if path.is_dir() and path.parent == Path(home) and path.name == Path(entry.folder).name else None
            )
        return None

    def _forget_folder(self, folder: str) -> None:
        """Whoever had this name before had lost its folder: what is made there now is another dataset."""
        for values in records.read_all(self._records(), _FORM):
            if values["folder"] == folder:
                with contextlib.suppress(OSError):
                    (self._records() / f"{values['id']}.json").unlink()


def list_files(path: Path, name: str) -> FolderContainer:
    """What is in a dataset's folder. Raises `DatasetUnreadable`."""
    return open_folder(path, name)


def own_files(container: FolderContainer) -> list[tuple[str, int]]:
    """Name and bytes of the files, without those that systems add and those that are never read."""
    return [(file.name, file.size) for file in container.files if not file.unusable and not is_system_file(file.name)]


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {field.name: values[field.name] for field in dataclasses.fields(Entry)}


def _folder_name(name: str) -> str:
    """What a folder can be called for a dataset of any name."""
    cleaned = _NOT_IN_FOLDERS.sub("_", unicodedata.normalize("NFC", name))
    while len(cleaned.encode()) > MAX_FOLDER_BYTES:
        cleaned = cleaned[:-1]
    cleaned = cleaned.strip(" .")
    with contextlib.suppress(NameRejected):
        if storable_parts(cleaned) == (cleaned,) and not cleaned.startswith("__MACOSX"):
            return cleaned
    return "dataset"


def _make_folder(home: Path, stem: str) -> Path:
    """A new folder of that name, or of one with a number where it is taken. Raises `Refusal`."""
    for number in itertools.count(1):
        folder = home / (stem if number == 1 else f"{stem}_{number}")
        if os.path.lexists(corrections_path(folder)):
            continue  # corrected captions of a dataset that was here
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise not_written(error) from error
        return folder
    raise AssertionError("unreachable: the numbers do not end")
