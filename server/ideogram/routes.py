"""Ideogram's routes for datasets and custom models, below /ideogram.

Covered: ids and names that lead nowhere; two uploads to one dataset, which take turns; many uploads at once; answers
that are too late for whoever asked. What is in a body is judged where it is read.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from aiohttp import web

from ..api.access import Guesses, Invalid, keyed
from ..api.addresses import base_of
from ..api.office import Office
from ..api.settings import ApiSettings
from ..guard import Refusal, read_json
from ..upload_files import ASIDE_PREFIX, not_written, remove_abandoned
from . import schema
from .intake import Taken, take_in
from .library import Entry, Library, list_files, own_files
from .models import Entry as ModelEntry
from .models import Models, told
from .receive import Part, check_kind, receive
from .records import iso_time
from .training import PATH

PREFIX = "/ideogram"
MAX_BODY_BYTES = 2**20
MAX_UPLOADS = 4
"""That arrive at once."""
LEAST_MAX_FILES = 2000
"""Of one call, of one zip, and in a dataset."""
MAX_REFUSAL_LENGTH = 2000

T = TypeVar("T", bound=pydantic.BaseModel)


@dataclasses.dataclass(frozen=True)
class Route:
    """One route, as it is served and as it is described."""

    method: str
    path: str
    """Below `PREFIX`, with the names of its parts in braces."""
    view: str
    """Name of the method of `_Views` that answers."""
    summary: str
    answer: type[pydantic.BaseModel]
    body: type[pydantic.BaseModel] | None = None
    """Of JSON."""
    takes_files: bool = False
    """A multipart body with files."""
    query: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """JSON schema of each."""
    statuses: tuple[int, ...] = (200, 400, 401, 403, 429)
    """Of all answers there can be but 500."""


_USUAL, _JSON = (200, 400, 401, 403, 429), (408, 413, 415)
_STATUS_QUERY = {"type": "array", "items": {"type": "string", "enum": list(schema.STATUSES)}}
_MODELS_QUERY: dict[str, dict[str, Any]] = {
    "status": _STATUS_QUERY,
    "scope": {"type": "string", "enum": list(schema.SCOPES)},
}

ROUTES = (
    Route("GET", "/datasets", "datasets", "List datasets", schema.DatasetList, statuses=_USUAL),
    Route(
        "POST",
        "/datasets",
        "create_dataset",
        "Create a dataset",
        schema.Dataset,
        body=schema.CreateDataset,
        statuses=(*_USUAL, *_JSON, 507),
    ),
    Route("GET", "/datasets/{dataset_id}", "dataset", "Get a dataset", schema.DatasetDetails, statuses=(*_USUAL, 404)),
    Route(
        "POST",
        "/datasets/{dataset_id}/upload_assets",
        "upload",
        "Upload images, captions and zips",
        schema.UploadSummary,
        takes_files=True,
        statuses=(*_USUAL, 404, *_JSON, 507),
    ),
    *(
        Route(
            "POST",
            f"/v1/ideogram-{version}/train-model",
            "train",
            "Train a model on a dataset",
            schema.TrainingStarted,
            body=schema.TrainModel,
            statuses=(*_USUAL, 404, *_JSON, 422, 507),
        )
        for version in ("v3", "v4")
    ),
    Route("GET", "/models", "models", "List models", schema.ModelList, query=_MODELS_QUERY, statuses=_USUAL),
    Route("GET", "/models/{model_id}", "model", "Get a model", schema.ModelDetails, statuses=(*_USUAL, 404)),
)


def add_routes(routes: web.RouteTableDef, office: Office, guesses: Guesses, library: Library | None = None) -> None:
    """Add the routes below /ideogram. `office` must know `training.TRAIN`, or the endpoint of another library."""
    views = _Views(office, library or Library())
    for route in ROUTES:
        routes.route(route.method, PREFIX + route.path)(keyed(getattr(views, route.view), guesses))


class _Views:
    def __init__(self, office: Office, library: Library) -> None:
        self._office, self._library, self._models = office, library, Models()
        self._uploads = 0
        self._judging = asyncio.Semaphore(2)
        self._turns: dict[str, asyncio.Lock] = {}
        """One for each dataset that got files since the start: calls take turns."""

    # ---- datasets --------------------------------------------------------------------------------------------

    async def datasets(self, _: web.Request) -> web.Response:
        entries = await asyncio.to_thread(self._library.all)
        return _answer(schema.DatasetList(datasets=[_dataset(entry) for entry in entries]))

    async def create_dataset(self, request: web.Request) -> web.Response:
        values = await _read(request, schema.CreateDataset)
        return _answer(_dataset(await asyncio.to_thread(self._library.create, values.name)))

    async def dataset(self, request: web.Request) -> web.Response:
        return _answer(await asyncio.to_thread(self._details, request.match_info["dataset_id"]))

    def _details(self, dataset_id: str) -> schema.DatasetDetails:
        entry, path = self._library.find(dataset_id)
        files = [
            schema.DatasetFile(file_name=name, file_size_bytes=size)
            for name, size in own_files(list_files(path, entry.name))
        ]
        return schema.DatasetDetails(dataset=_dataset(entry), file_count=len(files), files=files)

    # ---- uploads ---------------------------------------------------------------------------------------------

    async def upload(self, request: web.Request) -> web.Response:
        entry, _ = await asyncio.to_thread(self._library.find, request.match_info["dataset_id"])
        check_kind(request)
        settings = await asyncio.to_thread(ApiSettings.load)
        max_files = max(LEAST_MAX_FILES, 4 * settings.max_images)
        with self._place():
            aside = await asyncio.to_thread(self._make_aside, request.content_length or 0)
            try:
                parts = await receive(request, aside, max_files)
                async with self._turns.setdefault(entry.id, asyncio.Lock()), self._judging:
                    taken = await asyncio.to_thread(self._take_in, entry.id, parts, settings.max_images, max_files)
            finally:
                await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)
        return _answer(_summary(entry, taken))

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """Room for one more upload. Raises `Refusal`."""
        if self._uploads >= MAX_UPLOADS:
            raise Refusal(429, "too_many", f"{MAX_UPLOADS} uploads are on their way already. Wait for one of them.")
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    def _make_aside(self, needed_bytes: int) -> Path:
        """A hidden folder for what arrives, beside the datasets. Raises `Refusal`."""
        home = self._library.home()
        remove_abandoned(home)
        aside = home / (ASIDE_PREFIX + uuid.uuid4().hex)
        try:
            if shutil.disk_usage(home).free < needed_bytes:
                gigabytes = f"{needed_bytes / 2**30:,.2f} GiB"
                raise Refusal(507, "no_room", f"Not enough room on ComfyUI's disk: {gigabytes} are needed.")
            aside.mkdir()
        except OSError as error:
            raise not_written(error) from error
        return aside

    def _take_in(self, dataset_id: str, parts: list[Part], max_images: int, max_files: int) -> Taken:
        entry, path = self._library.find(dataset_id)  # once more: an upload takes its time
        return take_in(parts, path, entry.name, max_images=max_images, max_files=max_files)

    # ---- models ----------------------------------------------------------------------------------------------

    async def train(self, request: web.Request) -> web.Response:
        values = await _read(request, schema.TrainModel)
        await asyncio.to_thread(self._models.require_place)
        desk = await self._office.desk()
        try:
            record = await desk.submit(PATH, values, base_of(request))
        except Invalid as invalid:
            raise _refusal(invalid) from None
        try:
            model = await asyncio.to_thread(self._models.create, values.model_name, values.dataset_id, record.id)
        except BaseException:
            await desk.cancel(record.id)  # a training that nobody could ask for
            raise
        (now,) = await self._told([model], base_of(request))
        return _answer(
            schema.TrainingStarted(
                model_id=model.id,
                dataset_id=model.dataset_id,
                training_status=now.status,
                model_name=model.name,
            )
        )

    async def models(self, request: web.Request) -> web.Response:
        wanted, scope = request.query.getall("status", []), request.query.get("scope", "owned")
        for status in wanted:
            _require_known("status", status, schema.STATUSES)
        _require_known("scope", scope, schema.SCOPES)
        entries = await asyncio.to_thread(self._models.all) if scope == "owned" else []
        all_told = await self._told(entries, base_of(request))
        return _answer(schema.ModelList(models=[one for one in all_told if not wanted or one.status in wanted]))

    async def model(self, request: web.Request) -> web.Response:
        entry = await asyncio.to_thread(self._models.find, request.match_info["model_id"])
        (model,) = await self._told([entry], base_of(request))
        return _answer(schema.ModelDetails(model=model))

    async def _told(self, entries: list[ModelEntry], base: str) -> list[schema.Model]:
        """The models as they are at this moment."""
        desk = await self._office.desk()
        found = await asyncio.to_thread(lambda: [desk.store.find(entry.request_id) for entry in entries])
        running = [record is not None and record.is_open and await desk.is_running(record) for record in found]
        return await asyncio.to_thread(lambda: [told(*one, base) for one in zip(entries, found, running, strict=True)])


def _require_known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise Refusal(400, "bad_value", f"{name} must be one of: {', '.join(known)}.")


async def _read(request: web.Request, form: type[T]) -> T:
    """The body. Raises `Refusal`."""
    values = await read_json(request, MAX_BODY_BYTES)
    try:
        return form.model_validate(values)
    except pydantic.ValidationError as error:
        raise _refusal(Invalid.of(error)) from None


def _refusal(invalid: Invalid) -> Refusal:
    """As Ideogram refuses inputs: in one text."""
    faults = []
    for fault in invalid.errors:
        field = ".".join(str(part) for part in fault["loc"][1:])
        faults.append(f"{field}: {schema.RULES.get(field, fault['msg'])}")
    text = "; ".join(faults)[:MAX_REFUSAL_LENGTH].encode(errors="replace").decode()
    return Refusal(400, str(invalid.errors[0]["type"]), text)


def _answer(value: pydantic.BaseModel) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    return web.Response(text=value.model_dump_json(), content_type="application/json", headers=headers)


def _dataset(entry: Entry) -> schema.Dataset:
    return schema.Dataset(
        dataset_id=entry.id, name=entry.name, creation_time=iso_time(entry.created), folder=entry.folder
    )


def _summary(entry: Entry, taken: Taken) -> schema.UploadSummary:
    return schema.UploadSummary(
        total_count=len(taken.images) + len(taken.failures),
        success_count=len(taken.images),
        failure_count=len(taken.failures),
        caption_count=len(taken.captions),
        successful_assets=[
            schema.SuccessfulAsset(
                asset_identifier=schema.AssetIdentifier(asset_id=_asset_id(entry, name)), file_name=name
            )
            for name in taken.images
        ],
        failed_assets=[schema.FailedAsset(file_name=name, failure_reason=why) for name, why in taken.failures],
    )


def _asset_id(entry: Entry, name: str) -> str:
    """The same for a file of a dataset each time."""
    digest = hashlib.sha256(f"{entry.id}/{name}".encode()).digest()[:16]
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
