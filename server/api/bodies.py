"""Bodies of any size up to a limit: kept on disk while they arrive, and read one at a time.

Covered: bodies that are larger than declared, slow, cut off, or no JSON object; numbers that JSON does not know; many
large ones at once.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import folder_paths
from aiohttp import web

from ..guard import Refusal
from .access import Invalid

IDLE_TIMEOUT_S, BODY_TIMEOUT_S = 60.0, 900.0
IN_MEMORY_BYTES = 2**20
MAX_ARRIVING = 8
_arriving = asyncio.Semaphore(MAX_ARRIVING)
_reading = asyncio.Semaphore(1)


async def read_object(request: web.Request, max_bytes: int) -> dict[str, Any]:
    """The JSON object in a body. Raises `Refusal` and `Invalid`."""
    if request.content_type != "application/json":
        raise Refusal(415, "not_json", "Send a JSON object, with Content-Type: application/json.")
    if (request.content_length or 0) > max_bytes:
        raise too_large(max_bytes)
    async with _arriving:
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES, dir=_temp_folder()) as file:
            await receive(request, file, max_bytes)
            async with _reading:  # a large one takes several times its size while it is read
                value = await asyncio.to_thread(_parse, file)
    if not isinstance(value, dict):
        raise Invalid([{"loc": ["body"], "msg": "The body is not a JSON object.", "type": "json_invalid"}])
    return value


def too_large(max_bytes: int) -> Refusal:
    advice = "Put it where this server can fetch it, and send its https address."
    return Refusal(413, "too_large", f"The body has more than {max_bytes:,} bytes. {advice}")


async def receive(request: web.Request, file: IO[bytes], max_bytes: int) -> int:
    """Write the body to `file` as it arrives and return its bytes. Raises `Refusal`."""
    deadline, count = time.monotonic() + BODY_TIMEOUT_S, 0
    try:
        while chunk := await asyncio.wait_for(request.content.readany(), IDLE_TIMEOUT_S):
            count += len(chunk)
            if count > max_bytes:
                raise too_large(max_bytes)
            if time.monotonic() > deadline:
                raise asyncio.TimeoutError
            if count > IN_MEMORY_BYTES:
                await asyncio.to_thread(file.write, chunk)
            else:
                file.write(chunk)
    except web.RequestPayloadError:
        raise Refusal(400, "unreadable", "The body did not arrive whole.") from None
    except asyncio.TimeoutError:
        raise Refusal(408, "too_slow", "The body arrives too slowly.") from None
    except OSError as error:
        if isinstance(error, ConnectionError):
            raise
        raise Refusal(507, "not_written", f"ComfyUI cannot keep the body: {error.strerror}.") from error
    return count


def _parse(file: IO[bytes]) -> Any:
    file.seek(0)
    try:
        return json.loads(file.read(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _temp_folder() -> Path:
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder
