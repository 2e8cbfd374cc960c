"""Routes of the contact sheet: datasets, their images, and captions that are corrected.

Covered: ids and numbers only, never a path; captions are data in JSON, images are made anew as JPEG; a correction that
was made on an old state of the dataset. What a dataset itself may do is told in `trainer_core/dataset`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from ..trainer_core.dataset import Item
from ..trainer_core.dataset.captions import MAX_CAPTION_BYTES
from ..trainer_core.dataset.corrections import correct, own_caption
from ..trainer_core.dataset.json_caption import caption_boxes, check_json_caption
from ..trainer_core.dataset.sheet import Sheet, crop_at, make_sheet, marks
from ..trainer_core.errors import SaveFailed, SettingsError
from .guard import PREFIX, Refusal, guarded, number_in_path, number_of, read_json, text_of
from .likeness import Likeness
from .shelf import SIDES, Opened, Recent, Shelf, input_folder

MAX_BODY_BYTES = 2**20
"""Two captions, written as JSON with every character escaped."""
MAX_PAGE = 500
MAX_INDEX = 100_000
WORDS_SHOWN = 200
"""Characters of a caption on the sheet."""
MAX_SHEETS = 2
THREADS = 3
"""ComfyUI's own work on threads must go on beside ours."""

T = TypeVar("T")


def add_routes(routes: web.RouteTableDef, folder: Callable[[], Path] = input_folder) -> None:
    """Add the routes below /datasets, which show the datasets in `folder()`."""
    views = _Views(Shelf(folder))
    base = f"{PREFIX}/datasets"
    routes.get(base)(guarded(views.all))
    routes.post(base + "/{id}/sheet")(guarded(views.sheet))
    routes.get(base + "/{id}/items/{index}")(guarded(views.item))
    routes.get(base + "/{id}/items/{index}/image")(guarded(views.image))
    routes.post(base + "/{id}/items/{index}/caption")(guarded(views.caption))


class _Views:
    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._likeness = Likeness(shelf)
        self._sheets: Recent[Sheet] = Recent(MAX_SHEETS)
        self._threads = asyncio.Semaphore(THREADS)
        self._correcting = threading.Lock()

    async def _aside(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do what may take long on a thread."""
        async with self._threads:
            return await asyncio.to_thread(work, *arguments)

    # ---- reading ---------------------------------------------------------------------------------------------

    async def all(self, _: web.Request) -> web.Response:
        return web.json_response({"datasets": await self._aside(self._shelf.entries)})

    async def sheet(self, request: web.Request) -> web.Response:
        values = {"resolution": "auto", "default_caption": "", "force_default_caption": False, "first": 0, "count": 200}
        values |= await read_json(request, MAX_BODY_BYTES)
        first, count = number_of(values, "first", 0, MAX_INDEX), number_of(values, "count", 1, MAX_PAGE)
        if not isinstance(values["force_default_caption"], bool):
            raise Refusal(400, "bad_value", "force_default_caption must be true or false.")
        wishes = {
            "resolution": text_of(values, "resolution", 100),
            "default_caption": text_of(values, "default_caption", MAX_CAPTION_BYTES),
            "force_default_caption": values["force_default_caption"],
        }
        return web.json_response(await self._aside(self._page, request.match_info["id"], wishes, first, count))

    def _page(self, dataset_id: str, wishes: dict[str, Any], first: int, count: int) -> dict[str, Any]:
        opened = self._shelf.open(dataset_id)
        key = (opened.path, opened.version, *wishes.values())
        sheet = self._sheets.get(key) or self._sheets.put(key, make_sheet(opened.dataset, **wishes))
        twins = self._likeness.twins(opened)
        items = sheet.dataset.items
        shown = range(first, min(first + count, len(items)))
        page = {
            "name": opened.name,
            "version": opened.version,
            "report": sheet.report,
            "total": len(items),
            "resolution": dataclasses.asdict(sheet.resolution) if sheet.resolution else None,
            "problem": sheet.problem,
            "items": [_cell(sheet, index, twins) for index in shown],
        }
        return page if twins is not None else {**page, "pending": True}

    async def item(self, request: web.Request) -> web.Response:
        return web.json_response(await self._aside(self._item, *_named(request)))

    def _item(self, dataset_id: str, index: int, version: str) -> dict[str, Any]:
        opened = self._shelf.open(dataset_id)
        _require_version(opened, version)
        return _details(opened, index)

    async def image(self, request: web.Request) -> web.Response:
        size = request.query.get("size", "thumb")
        if size not in SIDES:
            raise Refusal(400, "bad_value", f"size must be one of: {', '.join(SIDES)}.")
        tag, work = await self._aside(self._picture, *_named(request), size)
        headers = {
            "Cache-Control": "private, max-age=86400",
            "ETag": f'"{tag}"',
            "X-Content-Type-Options": "nosniff",
        }
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        return web.Response(body=await self._aside(work), content_type="image/jpeg", headers=headers)

    def _picture(self, dataset_id: str, index: int, version: str, size: str) -> tuple[str, Callable[[], bytes]]:
        opened = self._shelf.open(dataset_id)
        # A caption that was corrected meanwhile leaves the picture as it is.
        if version.partition("-")[0] != opened.data:
            raise _changed()
        _item_at(opened, index)
        return f"{opened.data}-{index}-{size}", partial(self._shelf.picture, opened, index, size)

    # ---- correcting ------------------------------------------------------------------------------------------

    async def caption(self, request: web.Request) -> web.Response:
        values = await read_json(request, MAX_BODY_BYTES)
        index = number_in_path(request, "index", MAX_INDEX)
        version = text_of(values, "version", 100)
        was = text_of(values, "was", MAX_CAPTION_BYTES)
        text = None if values.get("caption") is None else text_of(values, "caption", MAX_CAPTION_BYTES)
        if "caption" not in values:
            raise Refusal(400, "bad_value", "caption is missing. null takes a correction back.")
        return web.json_response(await self._aside(self._correct, request.match_info["id"], index, version, text, was))

    def _correct(self, dataset_id: str, index: int, version: str, text: str | None, was: str) -> dict[str, Any]:
        with self._correcting:  # the file is read, altered and written
            opened = self._shelf.open(dataset_id)
            _require_version(opened, version)
            item = _item_at(opened, index)
            if was != item.caption:
                raise _changed()
            try:
                correct(opened.path, opened.dataset, item, text)
            except SettingsError as error:
                raise Refusal(400, "bad_caption", str(error)) from error
            except SaveFailed as error:  # its own words show where the file lies on the server
                fault = error.__cause__.strerror if isinstance(error.__cause__, OSError) else None
                message = f"The caption cannot be saved beside {opened.name}: {fault or 'the file would be too large'}."
                raise Refusal(507, "not_written", message) from error
            self._shelf.forget(dataset_id)
            return _details(self._shelf.open(dataset_id), index)


def _named(request: web.Request) -> tuple[str, int, str]:
    """Dataset, index and version that a request asks for."""
    return (
        request.match_info["id"],
        number_in_path(request, "index", MAX_INDEX),
        request.query.get("version", "")[:100],
    )


def _changed() -> Refusal:
    return Refusal(409, "changed", "The dataset has changed since this was shown. It is shown anew.")


def _require_version(opened: Opened, version: str) -> None:
    if version != opened.version:
        raise _changed()


def _item_at(opened: Opened, index: int) -> Item:
    if index >= len(opened.dataset.items):
        raise Refusal(404, "not_found", "There is nothing of that number.")
    return opened.dataset.items[index]


def _cell(sheet: Sheet, index: int, twins: list[int | None] | None) -> dict[str, Any]:
    item = sheet.dataset.items[index]
    crop = crop_at(item, sheet.resolution)
    return {
        "index": index,
        "name": item.name,
        "width": item.width,
        "height": item.height,
        "crop": [crop.left, crop.top, crop.width, crop.height] if crop else None,
        "caption": item.caption[:WORDS_SHOWN],
        "source": item.caption_source,
        "json": check_json_caption(item.caption) is not None,
        "marks": [dataclasses.asdict(mark) for mark in marks(sheet, index, twins)],
    }


def _details(opened: Opened, index: int) -> dict[str, Any]:
    item = _item_at(opened, index)
    return {
        "version": opened.version,
        "index": index,
        "name": item.name,
        "caption": item.caption,
        "original": own_caption(item),
        "source": item.caption_source,
        "findings": check_json_caption(item.caption) or [],
        "boxes": [
            {"label": box.label, "kind": box.kind, "box": [box.left, box.top, box.width, box.height]}
            for box in caption_boxes(item.caption)
        ],
    }
