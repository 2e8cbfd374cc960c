"""Models that were trained through the API: one record each, and what their request and its files tell today.

Covered: requests that nobody remembers any more, files that were deleted or moved by hand, names that are taken (a new
version of the model).
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..api.files import File, path_of
from ..api.reports import file_object
from ..api.settings import api_folder
from ..api.store import Record, Store
from ..guard import Refusal
from . import records
from .schema import Model, ModelStatus
from .training import FOLDER

_FORM = {"name": str, "dataset_id": str, "request_id": str, "version": int, "created": float}
_STATUS: dict[str, ModelStatus] = {"queued": "CREATING", "running": "TRAINING", "succeeded": "COMPLETED"}
_WHY = {
    "cancelled": "The training was cancelled.",
    "interrupted": "ComfyUI ended while the model was waiting or training. POST "
    "/fal/queue/ideogram/v4/requests/<request_id>/resume goes on with it.",
}


def models_folder() -> Path:
    return api_folder() / "models"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One model. `version` counts the models of a name, from 1."""

    id: str
    name: str
    dataset_id: str
    request_id: str
    version: int
    created: float

    @property
    def slug(self) -> str:
        """The name as addresses have it."""
        return self.name.lower().replace(" ", "-")

    @property
    def uri(self) -> str:
        return f"model/{self.slug}/version/{self.version}"


class Models:
    """All of it is called on threads."""

    def __init__(self, folder: Callable[[], Path] = models_folder) -> None:
        self._folder = folder
        self._counting = threading.Lock()

    def create(self, name: str, dataset_id: str, request_id: str) -> Entry:
        """Note a model whose training was queued. Raises `Refusal`."""
        with self._counting:
            entry = Entry(records.new_id(), name, dataset_id, request_id, 1, time.time())
            versions = [other.version for other in self.all() if other.slug == entry.slug]
            entry = dataclasses.replace(entry, version=max(versions, default=0) + 1)
            values = dataclasses.asdict(entry)
            records.write(self._folder(), values.pop("id"), values)
        return entry

    def require_place(self) -> None:
        """Raises `Refusal` where there are too many already."""
        records.require_place(self._folder(), "models")

    def all(self) -> list[Entry]:
        """The newest first."""
        return [_entry(values) for values in records.read_all(self._folder(), _FORM)]

    def file_of(self, uri: str, store: Store) -> Path | None:
        """The LoRA in ComfyUI's keys behind a `custom_model_uri`, None where there is none (any more)."""
        entry = next((one for one in self.all() if one.uri == uri), None)
        record = store.find(entry.request_id) if entry else None
        for name in _files(record).values() if record else ():
            if name.endswith(".safetensors") and not name.endswith("_fal.safetensors"):
                return path_of(next(file for file in record.files if file["filename"] == name))
        return None

    def find(self, model_id: str) -> Entry:
        """Raises `Refusal`."""
        values = records.read(self._folder(), model_id, _FORM)
        if values is None:
            raise Refusal(404, "not_found", "There is no model of that id here.")
        return _entry(values)


def told(entry: Entry, record: Record | None, running: bool = False, base: str = "") -> Model:
    """A model as it is answered. record: its request, None where nobody remembers it; running: at this moment.

    base: the address of this server.
    """
    status = _STATUS.get(record.state, "ERRORED") if record else "ERRORED"
    if running and status == "CREATING":
        status = "TRAINING"
    files = _files(record) if record and status == "COMPLETED" else {}
    loras = [os.path.join(FOLDER, name) for name in files.values() if name.endswith(".safetensors")]
    changed = max(entry.created, record.started, record.ended) if record else entry.created
    return Model(
        model_id=entry.id,
        name=entry.name,
        status=status,
        creation_time=records.iso_time(entry.created),
        last_update_time=records.iso_time(changed),
        is_available_for_generation=bool(loras),
        custom_model_uri=entry.uri,
        dataset_id=entry.dataset_id,
        loras=loras,
        files=[File(**file_object(record, index, base)) for index in files] if record else [],
        error=_why(record) if status == "ERRORED" else None,
        request_id=entry.request_id,
    )


def _why(record: Record | None) -> str:
    if record is None:
        return "Nothing is known of its training any more. What it made is in ComfyUI's output folder."
    return str(record.error.get("message") or _WHY.get(record.state) or "The training failed.")


def _files(record: Record) -> dict[int, str]:
    """Names of the files that are there, by their numbers."""
    return {index: file["filename"] for index, file in enumerate(record.files) if _is_there(file)}


def _is_there(file: dict[str, Any]) -> bool:
    try:
        return path_of(file).stat().st_size == file["bytes"]  # else another one has its name now
    except OSError:
        return False


def _entry(values: dict[str, Any]) -> Entry:
    return Entry(**{field.name: values[field.name] for field in dataclasses.fields(Entry)})
