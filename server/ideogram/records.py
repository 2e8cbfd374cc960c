"""Small JSON files, one for each dataset or model, in a folder that ComfyUI's own file routes do not reach.

Covered: ids that are no ids (they never become a path); files that are damaged, of another form or half deleted, which
are left where they are and not shown.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...trainer_core.errors import SaveFailed
from ...trainer_core.storage import is_disk_full, open_regular, replace_file
from ..guard import Refusal

MAX_RECORDS = 5000
MAX_RECORD_BYTES = 2**20
_ID = re.compile(r"[A-Za-z0-9_-]{22}")


def new_id() -> str:
    """128 random bits, as Ideogram writes them."""
    return secrets.token_urlsafe(16)


def write(folder: Path, record_id: str, values: dict[str, Any]) -> None:
    """Keep a record, whole or not at all. Raises `Refusal`."""
    try:
        replace_file(folder / f"{record_id}.json", [json.dumps({"id": record_id, **values}).encode()])
    except SaveFailed as error:
        why = "its disk is full" if is_disk_full(error) else "the folder cannot be written to"
        raise Refusal(507, "not_written", f"ComfyUI cannot keep this in its user folder: {why}.") from error


def read(folder: Path, record_id: str, form: dict[str, type]) -> dict[str, Any] | None:
    """The record of that id if it has values of these types, None where there is none."""
    if not _ID.fullmatch(record_id):
        return None
    with contextlib.suppress(OSError, ValueError, RecursionError):
        with open_regular(folder / f"{record_id}.json", os.O_RDONLY) as file:
            values = json.loads(file.read(MAX_RECORD_BYTES))
        if isinstance(values, dict) and values.get("id") == record_id:
            with contextlib.suppress(KeyError):
                if all(type(values[name]) is kind for name, kind in form.items()):
                    return values
    return None


def read_all(folder: Path, form: dict[str, type]) -> list[dict[str, Any]]:
    """All records of a folder, the newest first."""
    found = [read(folder, path.stem, form) for path in folder.glob("*.json")]
    return sorted((one for one in found if one is not None), key=lambda one: one["created"], reverse=True)


def require_place(folder: Path, what: str) -> None:
    """Raises `Refusal` where there are too many already."""
    if sum(1 for _ in folder.glob("*.json")) >= MAX_RECORDS:
        raise Refusal(400, "too_many", f"There are {MAX_RECORDS:,} {what} already. Delete some in ComfyUI's folders.")


def iso_time(seconds: float) -> str:
    """Seconds since 1970 as Ideogram writes a time."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
