"""The files that requests have made, for whoever has the key and the request's id.

Covered: ids and numbers alone lead to a file, never a path of the client's; a file that was deleted, or exchanged for a
link; parts of a file (Range), which resumed downloads ask for.
"""

from __future__ import annotations

import asyncio
import base64
import os
import stat
from pathlib import Path
from typing import Any
from urllib.parse import quote

import folder_paths
import pydantic
from aiohttp import web

from ...trainer_core.errors import UserError
from ...trainer_core.paths import PathOutsideRoot, resolve_inside
from ...trainer_core.storage import open_regular
from ..guard import Refusal, number_in_path
from .store import Record

CONTENT_TYPES = {
    ".safetensors": "application/octet-stream",
    ".json": "application/json",
    ".png": "image/png",
    ".jpeg": "image/jpeg",
}
MAX_FILES = 100


class File(pydantic.BaseModel):
    """A file as answers have it."""

    url: str = pydantic.Field(description="On this server, for whoever has the key.")
    content_type: str
    file_name: str
    file_size: int


class FileMissing(UserError):
    """A file that was just made is not there."""

    code = "result_lost"


def made_file(subfolder: str, filename: str) -> dict[str, Any]:
    """A file below ComfyUI's output folder as a record keeps it. Raises `FileMissing`."""
    content_type = CONTENT_TYPES.get(Path(filename).suffix, "application/octet-stream")
    file = {"subfolder": subfolder, "filename": filename, "content_type": content_type}
    try:
        return {**file, "bytes": path_of(file).stat().st_size}
    except OSError as error:
        raise FileMissing(f"{filename} is not in the output folder any more.") from error


def path_of(file: dict[str, Any]) -> Path:
    """Where a file is. Raises OSError when it is no regular file inside the output folder."""
    root = Path(os.path.realpath(folder_paths.get_output_directory()))
    try:
        path = resolve_inside(
            root, f"{file['subfolder']}/{file['filename']}" if file["subfolder"] else file["filename"]
        )
    except PathOutsideRoot as error:
        raise FileNotFoundError(str(error)) from error
    if not stat.S_ISREG(path.lstat().st_mode):
        raise FileNotFoundError(f"{path.name} is not a file")
    return path


def data_uri(file: dict[str, Any]) -> str:
    """The contents of a file of a record. Raises OSError."""
    with open_regular(path_of(file), os.O_RDONLY) as opened:
        return f"data:{file['content_type']};base64,{base64.b64encode(opened.read()).decode()}"


async def serve(request: web.Request, record: Record) -> web.StreamResponse:
    """The file of a request that the address names. Raises `Refusal`."""
    index = number_in_path(request, "index", MAX_FILES)
    if index >= len(record.files) or record.files[index]["filename"] != request.match_info["name"]:
        raise Refusal(404, "not_found", "This request has no such file.")
    file = record.files[index]
    try:
        path = await asyncio.to_thread(path_of, file)
    except OSError:
        raise Refusal(404, "file_gone", f"{file['filename']} was deleted from ComfyUI's output folder.") from None
    headers = {
        "Content-Type": file["content_type"],
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file['filename'])}",
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    return web.FileResponse(path, headers=headers)
