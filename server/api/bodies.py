"""Bodies of any size up to a limit: kept on disk while they arrive, and read one at a time.

Covered: bodies that are larger than declared, slow, cut off, or no JSON object; numbers that JSON does not know; many
large ones at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any

import folder_paths
from aiohttp import web

from ..guard import Refusal
from .access import Invalid

IDLE_TIMEOUT_S, GRACE_S = 60.0, 60.0
MIN_BYTES_PER_S = 10_000
"""Whoever is slower for longer than the grace keeps the place of others."""
IN_MEMORY_BYTES = 2**20
MAX_LARGE = 4
"""Of those that are larger, from their arrival until they are queued: each lies in memory, several times over."""
MAX_SIGNS = 100_000
"""Of JSON's structure in a body; those of a long caption too. Base64 has none."""
MAX_VALUES = 1000
"""In lists and objects."""
_large = asyncio.Semaphore(MAX_LARGE)
_reading = asyncio.Semaphore(1)


@contextlib.asynccontextmanager
async def read_object(request: web.Request, max_bytes: int) -> AsyncIterator[dict[str, Any]]:
    """The JSON object in a body, for as long as the block needs it. Raises `Refusal` and `Invalid`."""
    if request.content_type != "application/json":
        raise Refusal(415, "not_json", "Send a JSON object, with Content-Type: application/json.")
    if (request.content_length or 0) > max_bytes:
        raise too_large(max_bytes)
    async with contextlib.AsyncExitStack() as stack:
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES, dir=_temp_folder()) as file:
            await _receive(request, file, max_bytes, stack)
            async with _reading:  # a large one takes several times its size while it is read
                value = await asyncio.to_thread(_parse, file)
        if not isinstance(value, dict):
            raise _not_an_object("The body is not a JSON object.")
        yield value


def _not_an_object(message: str) -> Invalid:
    return Invalid([{"loc": ["body"], "msg": message, "type": "json_invalid"}])


def too_large(max_bytes: int) -> Refusal:
    advice = "Put it where this server can fetch it, and send its https address."
    return Refusal(413, "too_large", f"The body has more than {max_bytes:,} bytes. {advice}")


async def _receive(request: web.Request, file: IO[bytes], max_bytes: int, stack: contextlib.AsyncExitStack) -> None:
    """Write the body to `file` as it arrives; a large one takes a place, which `stack` gives back. Raises `Refusal`."""
    begun, count = time.monotonic(), 0
    try:
        while chunk := await asyncio.wait_for(request.content.readany(), IDLE_TIMEOUT_S):
            if count <= IN_MEMORY_BYTES < count + len(chunk):
                if _large.locked():
                    message = f"{MAX_LARGE} large bodies are at work already. Wait for one of them."
                    raise Refusal(429, "too_many", message)
                await stack.enter_async_context(_large)
            count += len(chunk)
            if count > max_bytes:
                raise too_large(max_bytes)
            if time.monotonic() - begun > GRACE_S + count / MIN_BYTES_PER_S:
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


def _parse(file: IO[bytes]) -> Any:
    file.seek(0)
    text = file.read()
    if sum(text.count(sign) for sign in b",:[{") > MAX_SIGNS:
        raise _not_an_object("The body has too many values.")
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if _count(value) > MAX_VALUES:
        raise _not_an_object("The body has too many values.")
    return value


def _count(value: Any) -> int:
    """Values in a JSON value, those inside of them too."""
    count, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        inside = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        count += len(inside)
        waiting += inside
    return count


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _temp_folder() -> Path:
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder
