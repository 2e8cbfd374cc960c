"""The files of a multipart body, each written to disk as it arrives, under a number and never under its own name.

Covered: bodies, files and headers of any size; bodies without an end, of another form, slow or cut off; many files; a
disk that is full. Nothing is held in memory but the piece that is being written.
Not covered: what the files hold, which `intake.py` judges.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from ...trainer_core.dataset.captions import MAX_CAPTION_BYTES
from ...trainer_core.dataset.images import MAX_IMAGE_BYTES
from ...trainer_core.dataset.names import CAPTION_SUFFIX, is_image, suffix_of
from ...trainer_core.paths import shown
from ..guard import BODY_TIMEOUT_S, Refusal
from ..upload_files import not_written

MAX_BODY_BYTES = 8 * 2**30
"""A hundred camera originals of 80 MB."""
MIN_BYTES_PER_S = 10_000
GRACE_S = 900.0
"""Whoever is slower than that for longer keeps the place of others."""
FIELDS = ("files", "files[]")
ZIP_SUFFIX = ".zip"
_CHUNK_BYTES, _WRITE_BYTES = 2**16, 2**20
_BROKEN = (ValueError, RuntimeError, AssertionError, LookupError, HttpProcessingError, web.RequestPayloadError)
"""What aiohttp's reader raises on a body that is not as it says."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Part:
    """One file of a body."""

    name: str
    """As the client wrote it."""
    path: Path
    """Where it is. Nothing is there when it was not kept."""
    size: int
    fault: str = ""
    """Why it was not kept, "" when it was."""


def check_kind(request: web.Request) -> None:
    """Raise `Refusal` for a body that is too large, or of another kind, by what its head says."""
    if not request.content_type.startswith("multipart/"):
        raise Refusal(415, "not_multipart", f"Send the files as multipart/form-data, in fields called {FIELDS[0]}.")
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise _too_large()


async def receive(request: web.Request, folder: Path, max_files: int) -> list[Part]:
    """Write every file of the body into `folder`. Raises `Refusal`; then what is in `folder` is of no use."""
    body = _Body(request.content)
    parts: list[Part] = []
    try:
        reader = MultipartReader(request.headers, body)  # type: ignore[arg-type]
        while (part := await reader.next()) is not None:
            if len(parts) == max_files:
                message = f"More than {max_files:,} files in one call. Send them in several, or in a zip."
                raise Refusal(400, "too_many_files", message)
            parts.append(await _receive_part(part, folder / f"{len(parts):05}"))
    except _BROKEN as error:
        message = "The body is no multipart/form-data, or did not arrive whole. Send it again."
        raise Refusal(400, "not_multipart", message) from error
    except asyncio.TimeoutError:
        raise Refusal(408, "too_slow", "The files arrive too slowly. Send them again.") from None
    except OSError as error:
        if isinstance(error, ConnectionError):
            raise  # nobody is there to be told
        raise not_written(error) from error
    if not parts:
        raise Refusal(400, "no_files", f"There is no file in the body. Send files in fields called {FIELDS[0]}.")
    return parts


async def _receive_part(part: BodyPartReader | MultipartReader, path: Path) -> Part:
    if not isinstance(part, BodyPartReader):
        await part.release()
        return Part("", path, 0, "it is a multipart body of its own; send its files one by one")
    name = part.filename or ""
    limit, fault = _limit_of(part, name)
    size, waiting = 0, bytearray()
    while chunk := await part.read_chunk(_CHUNK_BYTES):
        size += len(chunk)
        if size > limit or fault:
            continue  # read on, for the files behind it
        waiting += chunk
        if len(waiting) >= _WRITE_BYTES:
            await asyncio.to_thread(_append, path, waiting)
            waiting = bytearray()
    if size > limit and not fault:
        fault = f"it has {size:,} bytes, more than {limit:,}; make it smaller"
    if not fault:
        await asyncio.to_thread(_append, path, waiting)
    return Part(name or part.name or "", path, size, fault)


def _limit_of(part: BodyPartReader, name: str) -> tuple[int, str]:
    """How many bytes are kept, and why nothing is."""
    encoding = part.headers.get("Content-Transfer-Encoding", "binary").lower()
    if part.name not in FIELDS:
        return 0, f"it is in a field called {shown(part.name or '')}; use {FIELDS[0]}"
    if not name:
        return 0, "it has no file name; send it as a file"
    if encoding not in ("binary", "8bit", "7bit"):
        return 0, f"it is encoded as {shown(encoding)}; send the bytes as they are"
    if is_image(name):
        return MAX_IMAGE_BYTES, ""
    if suffix_of(name) == CAPTION_SUFFIX:
        return MAX_CAPTION_BYTES, ""
    if suffix_of(name) == ZIP_SUFFIX:
        return MAX_BODY_BYTES, ""
    return 0, "it is neither a .png, .jpg, .jpeg or .webp image, nor a .txt caption, nor a .zip"


def _append(path: Path, data: bytearray) -> None:
    with path.open("ab") as file:
        file.write(data)


def _too_large() -> Refusal:
    return Refusal(413, "too_large", f"The body has more than {MAX_BODY_BYTES:,} bytes. Send it in several calls.")


class _Body:
    """What aiohttp's reader reads from: the body, counted and timed, its lines and headers too."""

    def __init__(self, content: Any) -> None:
        self._content = content
        self._received = 0
        self._begun = time.monotonic()

    async def read(self, n: int = -1) -> bytes:
        return self._counted(await self._soon(self._content.read(n)))

    async def readline(self, **limits: int) -> bytes:
        return self._counted(await self._soon(self._content.readline(**limits)))

    def unread_data(self, data: bytes) -> None:
        self._received -= len(data)
        self._content.unread_data(data)

    def at_eof(self) -> bool:
        return bool(self._content.at_eof())

    async def _soon(self, reading: Awaitable[T]) -> T:
        return await asyncio.wait_for(reading, BODY_TIMEOUT_S)

    def _counted(self, data: bytes) -> bytes:
        self._received += len(data)
        if self._received > MAX_BODY_BYTES:
            raise _too_large()
        if time.monotonic() - self._begun > GRACE_S + self._received / MIN_BYTES_PER_S:
            raise asyncio.TimeoutError
        return data
