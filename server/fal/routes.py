"""fal's queue protocol: submit, status with logs, result, cancel; the blocking form; and what its JavaScript client
needs of a proxy. `/requests/{id}/resume` is our own.

Covered: ids and endpoints that there are not; clients that go away while they wait; webhooks to where nothing may be
sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pydantic
from aiohttp import web

from ...trainer_core.errors import UserError
from ...trainer_core.remote import check_url
from ..api.access import Guesses, Invalid, keyed
from ..api.addresses import base_of
from ..api.bodies import read_object
from ..api.calls import Calls
from ..api.desk import Desk
from ..api.failures import error_body, error_of
from ..api.files import serve
from ..api.office import Office
from ..api.reports import answer
from ..api.store import Record
from ..api.threads import outside
from ..guard import Refusal

APP = "ideogram/v4"
"""Owner and alias, which is all that fal's clients put before /requests."""
MAX_BODY_BYTES = 260 * 2**20
"""The largest data URI that the trainer takes, and what is around it."""
PROXY_HEADER = "x-fal-target-url"
_HOSTS = {"queue.fal.run": "queue", "fal.run": "run"}
_REQUEST = re.compile(rf"/{APP}/requests/([^/]+)(?:/(status|cancel|resume))?")


def add_routes(routes: web.RouteTableDef, office: Office, guesses: Guesses) -> None:
    """Add the routes below /fal."""
    views = _Views(office)
    for path in office.endpoints:
        if path.startswith(f"{APP}/"):
            routes.post(f"/fal/queue/{path}")(keyed(views.submit(path), guesses))
            routes.post(f"/fal/run/{path}")(keyed(views.run(path), guesses))
    requests = f"/fal/queue/{APP}/requests/{{id}}"
    routes.get(requests)(keyed(views.result, guesses))
    routes.get(requests + "/status")(keyed(views.status, guesses))
    routes.put(requests + "/cancel")(keyed(views.cancel, guesses))
    routes.post(requests + "/resume")(keyed(views.resume, guesses))
    routes.get("/fal/files/{id}/{index}/{name}")(keyed(views.file, guesses))
    for method in ("GET", "POST", "PUT"):
        routes.route(method, "/fal/proxy")(keyed(views.proxy, guesses))


class _Views:
    """Each takes what it needs from the address, or gets it from the proxy's header."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._calls = Calls()

    def submit(self, path: str) -> Any:
        async def view(request: web.Request) -> web.Response:
            return await self._submit(request, path, request.query)

        return view

    def run(self, path: str) -> Any:
        async def view(request: web.Request) -> web.Response:
            return await self._run(request, path)

        return view

    async def status(self, request: web.Request) -> web.Response:
        return await self._status(request, request.match_info["id"], request.query)

    async def result(self, request: web.Request) -> web.Response:
        return await self._result(request, request.match_info["id"])

    async def cancel(self, request: web.Request) -> web.Response:
        return await self._cancel(request.match_info["id"])

    async def resume(self, request: web.Request) -> web.Response:
        desk = await self._office.desk()
        record = await desk.resume(desk.find(request.match_info["id"]))
        return _answer(record, _submitted(desk, record, base_of(request)))

    async def file(self, request: web.Request) -> web.StreamResponse:
        desk = await self._office.desk()
        return await serve(request, desk.find(request.match_info["id"]))

    async def proxy(self, request: web.Request) -> web.Response:
        """What fal's JavaScript client sends to its `proxyUrl`: its own method and body, and whom they are for."""
        try:
            target = urlsplit(request.headers.get(PROXY_HEADER, ""))
        except ValueError:
            target = urlsplit("")
        kind = _HOSTS.get(target.hostname or "")
        query = dict(parse_qsl(target.query))
        path = target.path.strip("/")
        match = _REQUEST.fullmatch(target.path.rstrip("/"))
        if kind and request.method == "POST" and path in self._office.endpoints and path.startswith(f"{APP}/"):
            if kind == "run":
                return await self._run(request, path)
            return await self._submit(request, path, query)
        match (request.method, kind, match and match[2]):
            case ("GET", "queue", "status"):
                return await self._status(request, match[1], query)
            case ("GET", "queue", None) if match:
                return await self._result(request, match[1])
            case ("PUT", "queue", "cancel"):
                return await self._cancel(match[1])
        raise Refusal(404, "not_found", f"{PROXY_HEADER} names nothing that is served here: {self._served()}.")

    def _served(self) -> str:
        own = ", ".join(path for path in self._office.endpoints if path.startswith(f"{APP}/"))
        return f"{own} at {' and '.join(_HOSTS)}. There is no storage here: send data URIs, or addresses"

    # ---- what they do ----------------------------------------------------------------------------------------

    async def _submit(self, request: web.Request, path: str, query: Mapping[str, str]) -> web.Response:
        webhook = query.get("fal_webhook", "")
        if webhook:
            await outside(_check_webhook, webhook)
        desk = await self._office.desk()
        async with read_object(request, MAX_BODY_BYTES) as body:
            record = await desk.submit(path, _inputs(desk, path, body), base_of(request), webhook)
        return _answer(record, _submitted(desk, record, base_of(request)))

    async def _run(self, request: web.Request, path: str) -> web.Response:
        desk = await self._office.desk()
        async with read_object(request, MAX_BODY_BYTES) as body:
            values = _inputs(desk, path, body)
            sent = await asyncio.to_thread(_digest, path, body)
            record = self._calls.left_alone(desk, sent) or await desk.submit(path, values, base_of(request))

        def still_there() -> bool:
            return request.transport is not None and not request.transport.is_closing()

        return await _ended(await self._calls.wait(desk, record.id, still_there, sent), base_of(request))

    async def _status(self, request: web.Request, request_id: str, query: Mapping[str, str]) -> web.Response:
        desk = await self._office.desk()
        record = desk.find(request_id)
        wants_logs = query.get("logs", "").lower() in ("1", "true")
        told: dict[str, Any] = {**_addresses(record, base_of(request)), "logs": None}
        if wants_logs:
            told["logs"] = await desk.reports.logs(record)
        if record.is_open and not await desk.is_running(record):
            told |= {"status": "IN_QUEUE", "queue_position": desk.queue_position(record)}
        elif record.is_open:
            told["status"] = "IN_PROGRESS"
        else:
            seconds = max(0.0, record.ended - record.started) if record.started else 0.0
            told |= {"status": "COMPLETED", "metrics": {"inference_time": round(seconds, 3)}}
            if record.state != "succeeded":
                error = error_of(record)
                told |= {"error": error["message"], "error_type": error["code"]}
        step, steps = await desk.progress(record)
        if steps:
            told["progress"] = {"step": step, "steps": steps}
        return _answer(record, told, status=200 if told["status"] == "COMPLETED" else 202)

    async def _result(self, request: web.Request, request_id: str) -> web.Response:
        desk = await self._office.desk()
        record = desk.find(request_id)
        if record.is_open:
            raise Refusal(400, "in_progress", "The request has not ended yet. Ask for its status.")
        return await _ended(record, base_of(request))

    async def _cancel(self, request_id: str) -> web.Response:
        desk = await self._office.desk()
        if await desk.cancel(request_id):
            return _answer(desk.find(request_id), {"status": "CANCELLATION_REQUESTED"}, status=202)
        return _answer(desk.find(request_id), {"status": "ALREADY_COMPLETED"}, status=400)


def _inputs(desk: Desk, path: str, body: dict[str, Any]) -> pydantic.BaseModel:
    try:
        return desk.endpoints[path].input.model_validate(body)
    except pydantic.ValidationError as error:
        raise Invalid.of(error) from None


def _digest(path: str, body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([path, body], sort_keys=True).encode()).hexdigest()


def _check_webhook(url: str) -> None:
    try:
        check_url(url, what="webhook")
    except UserError as error:
        raise Invalid([{"loc": ["query", "fal_webhook"], "msg": str(error), "type": error.code}]) from None


def _addresses(record: Record, base: str) -> dict[str, Any]:
    own = f"{base}/fal/queue/{APP}/requests/{record.id}"
    addresses = {"response_url": own, "status_url": f"{own}/status", "cancel_url": f"{own}/cancel"}
    return {"request_id": record.id, **addresses}


def _submitted(desk: Desk, record: Record, base: str) -> dict[str, Any]:
    return {"status": "IN_QUEUE", **_addresses(record, base), "queue_position": desk.queue_position(record)}


async def _ended(record: Record, base: str) -> web.Response:
    if record.state == "succeeded":
        return _answer(record, await answer(record, base))
    error = error_of(record)
    headers = {"X-Fal-Error-Type": error["code"], "X-Fal-Retryable": "false"}
    return _answer(record, error_body(error), status=error["status"], headers=headers)


def _answer(record: Record, value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    own = {"X-Fal-Request-Id": record.id, "Cache-Control": "no-store", **(headers or {})}
    reason = "Client Closed Request" if status == 499 else None  # which aiohttp does not know
    return web.json_response(value, status=status, reason=reason, headers=own)
