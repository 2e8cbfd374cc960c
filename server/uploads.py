"""Routes that receive a dataset in parts, so that ComfyUI's limit on the size of an upload does not matter.

Files are written into a hidden folder inside the input folder, judged there when all have arrived, and then get their
name in one step. Covered: names and sizes judged before a byte is sent; more bytes than declared, parts out of order or
sent twice; a full disk; uploads that are given up, also by a server that died; two that finish at once; a name that is
taken, which is never written over. Not covered: two ComfyUIs with one input folder, beyond their not harming each
other; what the files hold, which `trainer_core/dataset` judges.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from ..trainer_core.dataset.arrivals import judge_arrival
from .guard import BODY_TIMEOUT_S, PREFIX, Refusal, guarded, number_in_path, read_json
from .shelf import entry_of, input_folder
from .upload_files import (
    ASIDE_PREFIX,
    IDLE_S,
    File,
    Upload,
    not_written,
    open_at,
    place,
    prepare,
    remove,
    remove_abandoned,
)

PART_BYTES = 8 * 2**20
MAX_START_BYTES = 4 * 2**20
"""Of the list of files."""
MAX_UPLOADS = 4
REPLACEABLE_AFTER_S = 120.0
"""An upload that got nothing for so long makes room for a new one: its tab was closed or loaded again."""
PART_TIMEOUT_S = 900.0
"""For a part, about 10 kB a second: whoever is slower keeps the place of others."""
_WRITE_BYTES = 2**20


def add_routes(routes: web.RouteTableDef, folder: Callable[[], Path] = input_folder) -> None:
    """Add the routes below /uploads, which put datasets into `folder()`."""
    views = _Views(folder)
    base = f"{PREFIX}/uploads"
    routes.post(base)(guarded(views.begin))
    routes.post(base + "/{token}/files/{index}")(guarded(views.part))
    routes.post(base + "/{token}/finish")(guarded(views.finish))
    routes.post(base + "/{token}/cancel")(guarded(views.cancel))
    remove_abandoned(folder())


class _Views:
    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder
        self._uploads: dict[str, Upload] = {}
        self._sweeping = False

    async def begin(self, request: web.Request) -> web.Response:
        values = await read_json(request, MAX_START_BYTES)
        arrival = await asyncio.to_thread(judge_arrival, _listed(values.get("files")), _folder_name(values))
        await asyncio.to_thread(remove_abandoned, self._folder())
        given_up = self._make_place()
        root = Path(os.path.realpath(self._folder()))
        aside = root / (ASIDE_PREFIX + uuid.uuid4().hex)
        files = [File(aside / "content" / name, size) for name, size in arrival.files]
        token, upload = secrets.token_urlsafe(32), Upload(arrival, aside, files)
        self._uploads[token] = upload  # before the first wait: its bytes count for others who ask for room
        try:
            if given_up is not None:
                await self._end(given_up)
            await asyncio.to_thread(prepare, upload, sum(other.missing_bytes for other in self._uploads.values()))
        except BaseException:
            await self._end(token)
            raise
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(IDLE_S, self._sweep)
        return web.json_response({"upload": token, "part_bytes": PART_BYTES})

    async def part(self, request: web.Request) -> web.Response:
        _, upload = self._named(request)
        if request.content_type != "application/octet-stream":
            raise Refusal(415, "not_bytes", "Send the bytes, with Content-Type: application/octet-stream.")
        file = upload.files[number_in_path(request, "index", len(upload.files) - 1)]
        offset = _offset(request)
        if upload.finishing or file.busy:
            raise _busy()
        if offset != file.received:
            message = f"The next byte of this file is number {file.received:,}."
            error = {"code": "wrong_offset", "message": message, "received": file.received}
            return web.json_response({"error": error}, status=409)
        file.busy = True
        try:
            count = await _receive(request, upload, file)
            file.received += count
        except ConnectionError:
            raise  # nobody is there to be told
        except OSError as error:
            raise not_written(error) from error
        finally:
            file.busy = False
            upload.touched_s = time.monotonic()
            if upload.ended:
                await asyncio.to_thread(remove, upload)
        return web.json_response({"received": file.received})

    async def finish(self, request: web.Request) -> web.Response:
        token, upload = self._named(request)
        if upload.busy:
            raise _busy()
        if upload.missing_bytes:
            raise Refusal(409, "incomplete", f"{upload.missing_bytes:,} bytes have not arrived yet.")
        upload.finishing = True
        try:
            name = await asyncio.to_thread(place, upload)
        finally:
            upload.finishing = False
            await self._end(token)
        return web.json_response({"dataset": entry_of(self._folder(), name)})

    async def cancel(self, request: web.Request) -> web.Response:
        token, upload = self._named(request)
        if upload.finishing:
            raise _busy()
        await self._end(token)
        return web.json_response({})

    def _named(self, request: web.Request) -> tuple[str, Upload]:
        token = request.match_info["token"]
        upload = self._uploads.get(token)
        if upload is None:
            raise Refusal(404, "not_found", "There is no such upload, or it was given up. Start again.")
        return token, upload

    def _make_place(self) -> str | None:
        """The upload that is to be given up for a new one, None where there is place. Raises `Refusal`."""
        if len(self._uploads) < MAX_UPLOADS:
            return None
        oldest = min(self._uploads, key=lambda token: self._uploads[token].touched_s)
        upload = self._uploads[oldest]
        if upload.busy or time.monotonic() - upload.touched_s < REPLACEABLE_AFTER_S:
            raise Refusal(429, "too_many", f"{MAX_UPLOADS} uploads are on their way already. Wait for one of them.")
        return oldest

    async def _end(self, token: str) -> None:
        upload = self._uploads.pop(token, None)
        if upload is None:
            return
        upload.ended = True
        if not upload.busy:  # else whoever is writing removes it
            await asyncio.to_thread(remove, upload)

    def _sweep(self) -> None:
        for token, upload in list(self._uploads.items()):
            if not upload.busy and time.monotonic() - upload.touched_s > IDLE_S:
                del self._uploads[token]
                upload.ended = True
                asyncio.get_running_loop().run_in_executor(None, remove, upload)
        self._sweeping = bool(self._uploads)
        if self._sweeping:
            asyncio.get_running_loop().call_later(IDLE_S, self._sweep)


# ---- what a request says -------------------------------------------------------------------------------------


def _listed(files: Any) -> list[tuple[str, int]]:
    if not isinstance(files, list):
        raise Refusal(400, "bad_value", 'files must be a list of {"name", "bytes"}.')
    listed = []
    for file in files:
        name, size = (file.get("name"), file.get("bytes")) if isinstance(file, dict) else (None, None)
        if not isinstance(name, str) or type(size) is not int or not 0 <= size < 2**53:
            raise Refusal(400, "bad_value", "Every file needs a name and its number of bytes.")
        listed.append((name, size))
    return listed


def _folder_name(values: dict[str, Any]) -> str:
    name = values.get("name") or ""
    if not isinstance(name, str):
        raise Refusal(400, "bad_value", "name must be a text.")
    return name


def _offset(request: web.Request) -> int:
    text = request.query.get("offset", "")
    if not text.isascii() or not text.isdigit() or len(text) > 16:
        raise Refusal(400, "bad_value", "offset must be a whole number.")
    return int(text)


def _busy() -> Refusal:
    return Refusal(409, "busy", "Another request is still at work on this upload.")


# ---- the body of a part --------------------------------------------------------------------------------------


async def _receive(request: web.Request, upload: Upload, file: File) -> int:
    """Write the body behind what is there and return how much it was. Nothing counts unless all of it arrives."""
    limit = min(PART_BYTES, file.size - file.received)
    too_large = Refusal(413, "too_large", f"A part may have {PART_BYTES:,} bytes, and a file as many as were declared.")
    if (request.content_length or 0) > limit:
        raise too_large
    count, waiting = 0, bytearray()
    deadline = time.monotonic() + PART_TIMEOUT_S
    handle = await asyncio.to_thread(open_at, file.path, file.received)
    try:
        while chunk := await _next_chunk(request):
            count += len(chunk)
            waiting += chunk
            if time.monotonic() > deadline:
                raise Refusal(408, "too_slow", f"This part took more than {PART_TIMEOUT_S:.0f} s. Send it again.")
            if count > limit:
                raise too_large
            if upload.ended:
                raise Refusal(404, "not_found", "This upload was given up.")
            if len(waiting) >= _WRITE_BYTES:
                await asyncio.to_thread(handle.write, bytes(waiting))
                waiting.clear()
        await asyncio.to_thread(handle.write, bytes(waiting))
    finally:
        await asyncio.to_thread(handle.close)
    return count


async def _next_chunk(request: web.Request) -> bytes:
    try:
        return await asyncio.wait_for(request.content.readany(), BODY_TIMEOUT_S)
    except web.RequestPayloadError:
        raise Refusal(400, "cut_off", "The part did not arrive whole. Send it again.") from None
    except asyncio.TimeoutError:
        raise Refusal(408, "too_slow", f"Nothing arrived for {BODY_TIMEOUT_S:.0f} s. Send the part again.") from None
