"""Requests that outlast a restart: one JSON file each, in a folder that ComfyUI's own file routes do not reach.

Covered: files that are damaged, half written or of a newer version (left where they are, and not shown); a disk that is
full; two ComfyUIs that share one user folder: each knows which requests are its own, and which belonged to one that is
gone, by a lock that the system gives back when a process ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pydantic

from ...trainer_core.errors import SaveFailed
from ...trainer_core.storage import open_regular, replace_file
from ...trainer_core.training.lock import RunLock, is_locked

MAX_RECORDS = 5000
MAX_RECORD_BYTES = 16 * 2**20
OPEN = ("queued", "running")
ENDED = ("succeeded", "failed", "cancelled", "interrupted")
"""`interrupted`: ComfyUI ended while it was queued or running."""
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclasses.dataclass(frozen=True)
class Record:
    """A request and what has become of it. Times are in seconds since 1970, 0 for not yet."""

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")  # a field that is not known: of a newer version
    id: str
    """A random UUID, which nobody can guess."""
    endpoint: str
    graph: dict[str, Any]
    """The prompt, in ComfyUI's API format."""
    base: str
    """Of this server's own addresses, as the client wrote them."""
    prompt_id: str = ""
    """In ComfyUI's queue; another one each time that the request is resumed."""
    server: str = ""
    """Whose queue it is in."""
    state: str = "queued"
    created: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    run_name: str = ""
    """What its training run is called, before ComfyUI's number; "" for what trains nothing."""
    notes: tuple[str, ...] = ()
    """What is to be told about how it was understood."""
    stages: tuple[tuple[float, str], ...] = ()
    """What it was seen to be at, and when."""
    last_notes: tuple[str, ...] = ()
    """What is to be told about how it was done."""
    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What `Endpoint.result` needs to know of the inputs."""
    files: tuple[dict[str, Any], ...] = ()
    """What it made: `subfolder`, `filename`, `content_type`, `bytes`, below ComfyUI's output folder."""
    payload: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The answer, with {"$file": n} where a file belongs."""
    error: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Why there is no answer: `status`, `code`, `message` and for wrong inputs `field`."""
    webhook: dict[str, Any] = dataclasses.field(default_factory=dict)
    """`url`, `attempts`, `next` (a time) and `done`; empty without one."""

    @property
    def is_open(self) -> bool:
        return self.state in OPEN


_FORM = pydantic.TypeAdapter(Record)


class Store:
    """All requests, in memory and on disk. Threads may share it."""

    def __init__(self, folder: Path) -> None:
        """Reads what is there, and marks what belonged to a server that is gone. Raises OSError."""
        self.folder = folder
        self.server = uuid.uuid4().hex
        self._lock = threading.Lock()
        place = folder / "servers" / self.server
        place.mkdir(parents=True, exist_ok=True)
        (folder / "requests").mkdir(exist_ok=True)
        self._alive = RunLock(place)
        self._records: dict[str, Record] = {}
        self._unsaved: set[str] = set()
        gone: dict[str, bool] = {}
        for path in sorted((folder / "requests").glob("*.json")):
            record = _read(path)
            if record is None:
                continue
            if record.server not in gone:
                gone[record.server] = not self._is_alive(record.server)
            if gone[record.server]:
                record = self._taken_over(record)
            self._records[record.id] = record
        self._remove_dead_servers()

    def _taken_over(self, record: Record) -> Record:
        """A request of a server that is gone."""
        if not record.is_open:
            return dataclasses.replace(record, server=self.server)
        record = dataclasses.replace(record, server=self.server, state="interrupted", ended=time.time())
        with contextlib.suppress(SaveFailed):  # a disk that is full now must not keep ComfyUI from starting
            self._write(record)
        return record

    def find(self, request_id: str) -> Record | None:
        """The request of that id; what another server works on is read anew."""
        record = self._records.get(request_id)
        if record is not None and record.is_open and record.server != self.server:
            return _read(self._path(request_id)) or record
        return record

    def read(self, request_id: str) -> Record | None:
        """As it is on disk now."""
        return _read(self._path(request_id)) if request_id in self._records else None

    def all(self) -> list[Record]:
        return list(self._records.values())

    def put(self, record: Record) -> None:
        """Keep a request as it is now. Raises `SaveFailed`; then it is as it was before."""
        with self._lock:
            self._write(record)
            self._records[record.id] = record
            self._unsaved.discard(record.id)
            for request_id in list(self._unsaved):  # there may be room for these now
                with contextlib.suppress(SaveFailed, KeyError):
                    self._write(self._records[request_id])
                    self._unsaved.discard(request_id)

    def remember(self, record: Record) -> None:
        """As `put`, where the disk refuses: in memory, until something else can be put."""
        with self._lock:
            self._records[record.id] = record
            self._unsaved.add(record.id)

    def drop(self, request_id: str) -> None:
        with self._lock:
            self._records.pop(request_id, None)
            with contextlib.suppress(OSError):
                self._path(request_id).unlink()

    def prune(self, kept: Collection[str] = ()) -> None:
        """Forget the oldest that have ended, where there are too many. Their files stay.

        kept: endpoints whose requests are not forgotten.
        """
        prunable = [one for one in self.all() if one.endpoint not in kept]
        ended = sorted((one for one in prunable if not one.is_open), key=lambda one: one.ended)
        for record in ended[: max(0, len(prunable) - MAX_RECORDS)]:
            self.drop(record.id)

    def _path(self, request_id: str) -> Path:
        return self.folder / "requests" / f"{request_id}.json"

    def _write(self, record: Record) -> None:
        try:
            content = _FORM.dump_json(record)
        except ValueError as error:  # what is no text would be written, and not be read again
            raise SaveFailed("The request cannot be kept: it holds what is no text.") from error
        replace_file(self._path(record.id), [content])

    def _is_alive(self, server: str) -> bool:
        return bool(re.fullmatch(r"[0-9a-f]{32}", server)) and is_locked(self.folder / "servers" / server)

    def _remove_dead_servers(self) -> None:
        for place in (self.folder / "servers").iterdir():
            if place.name != self.server and not self._is_alive(place.name):
                shutil.rmtree(place, ignore_errors=True)


def _read(path: Path) -> Record | None:
    with contextlib.suppress(OSError, ValueError):  # pydantic's errors are ValueErrors
        with open_regular(path, os.O_RDONLY) as file:
            record = _FORM.validate_json(file.read(MAX_RECORD_BYTES))
        if _ID.fullmatch(record.id) and path.stem == record.id and record.state in (*OPEN, *ENDED):
            return record
    return None
