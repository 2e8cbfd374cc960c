"""Our own addresses among what a client sends: they lead to a request's file here, and are never called."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ...trainer_core.errors import UserError
from .files import path_of
from .store import Store

MAX_LENGTH = 8192
_FORM = re.compile(r".*/fal/files/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/([0-9]{1,3})/([^/]+)", re.DOTALL)


class NoSuchFile(UserError):
    """An address of ours behind which there is nothing."""

    code = "file_not_found"


def own_file(address: str, store: Store) -> Path | None:
    """The real path of the file that an address of `/fal/files/` stands for, whatever comes before that.

    None for every other text. Raises `NoSuchFile`.
    """
    if len(address) > MAX_LENGTH:
        return None  # before it is parsed: Python keeps what it has parsed last, data URIs too
    try:
        match = _FORM.fullmatch(urlsplit(address).path)
    except ValueError:
        return None
    if match is None:
        return None
    record = store.find(match[1])
    file = record.files[int(match[2])] if record is not None and int(match[2]) < len(record.files) else None
    if file is None or file["filename"] != unquote(match[3]):
        raise NoSuchFile("This server has made no such file. Use an address as it stands in an answer.")
    try:
        return Path(os.path.realpath(path_of(file)))
    except OSError:
        raise NoSuchFile(f"{file['filename']} was deleted from ComfyUI's output folder.") from None
