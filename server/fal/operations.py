"""fal's routes as the OpenAPI document has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..api.endpoints import Endpoint
from ..api.files import CONTENT_TYPES, MAX_FILES
from ..api.openapi import ANY_BYTES, USUAL, WITH_BODY, Answer, Error, Operation, WrongInputs, errors, parameter
from .routes import APP, PROXY_HEADER
from .schema import Cancelled, Status, Submitted

TAG = "fal"
OF_REQUEST = ("X-Fal-Request-Id",)
FAILED = {422: Answer(WrongInputs, headers=OF_REQUEST)} | {
    status: Answer(Error, headers=("X-Fal-Error-Type",)) for status in (499, 500, 507)
}
WEBHOOK = parameter(
    "fal_webhook", "query", {"type": "string"}, "An https address that is told when the request has ended."
)
ID = parameter("id", "path", {"type": "string", "format": "uuid"}, "request_id")


def operations(endpoints: Iterable[Endpoint]) -> list[Operation]:
    """All of them; `endpoints` are those of the Office, of which some are not fal's."""
    endpoints = list(endpoints)
    own = [endpoint for endpoint in endpoints if endpoint.path.startswith(f"{APP}/")]
    return [*(one for endpoint in own for one in _of_endpoint(endpoint)), *_of_requests(endpoints), *_of_proxy(own)]


def _of_endpoint(endpoint: Endpoint) -> list[Operation]:
    refused = _refused(400)
    submitted = {200: Answer(Submitted, headers=OF_REQUEST)}
    done = {200: Answer(endpoint.output, headers=OF_REQUEST), **errors(499)}
    where = f"/{endpoint.path}"
    return [
        Operation(
            "POST",
            f"/fal/queue{where}",
            endpoint.summary,
            TAG,
            submitted | refused,
            endpoint.input,
            parameters=[WEBHOOK],
        ),
        Operation("POST", f"/fal/run{where}", f"{endpoint.summary}, and wait", TAG, done | refused, endpoint.input),
    ]


def _refused(*more: int) -> dict[int, Answer]:
    """What may become of inputs."""
    return {**errors(*USUAL, *WITH_BODY, *more), 422: Answer(WrongInputs | Error)}


def _of_requests(endpoints: list[Endpoint]) -> list[Operation]:
    where = f"/fal/queue/{APP}/requests/{{id}}"
    logs = parameter("logs", "query", {"type": "string"}, "1 or true: with the log so far.")
    usual = errors(*USUAL, 404)
    told = Answer(Status, headers=OF_REQUEST)
    cancelled = Answer(Cancelled, headers=OF_REQUEST)
    again = {200: Answer(Submitted, headers=OF_REQUEST), **errors(409, 422, 507)}
    status = {200: told, 202: told}
    result = {200: Answer(_outputs(endpoints), headers=OF_REQUEST), **errors(400), **FAILED}
    return [
        Operation("GET", f"{where}/status", "How far a request is", TAG, usual | status, parameters=[ID, logs]),
        Operation("GET", where, "What a request has come to", TAG, usual | result, parameters=[ID]),
        Operation(
            "PUT", f"{where}/cancel", "Cancel a request", TAG, usual | {202: cancelled, 400: cancelled}, parameters=[ID]
        ),
        Operation(
            "POST",
            f"{where}/resume",
            "Go on with a request that did not succeed",
            TAG,
            usual | again,
            parameters=[ID],
            description="Not of fal's. A training goes on at its newest checkpoint.",
        ),
        _file(),
    ]


def _file() -> Operation:
    content = Answer(content_types=tuple(sorted({*CONTENT_TYPES.values(), ANY_BYTES})))
    index = parameter("index", "path", {"type": "integer", "minimum": 0, "maximum": MAX_FILES})
    ranges = {"type": "string", "description": "As RFC 9110 has it."}
    return Operation(
        "GET",
        "/fal/files/{id}/{index}/{name}",
        "A file that a request has made",
        TAG,
        {200: content, 206: content, 304: Answer(), 412: Answer(), 416: Answer(), **errors(*USUAL, 404)},
        parameters=[ID, index, parameter("Range", "header", ranges)],
    )


def _of_proxy(endpoints: list[Endpoint]) -> list[Operation]:
    """What fal's JavaScript client sends to its `proxyUrl`."""
    target = parameter(PROXY_HEADER, "header", {"type": "string"}, "The address at fal's that it is for.")
    told = Answer(Submitted | Status | _outputs(endpoints))
    inputs = _union([endpoint.input for endpoint in endpoints])
    read = {200: told, 202: told, **errors(*USUAL, 400, 404), **FAILED}
    cancelled = {202: Answer(Cancelled), 400: Answer(Cancelled)}
    common: dict[str, Any] = {"tag": TAG, "parameters": [target]}
    return [
        Operation("GET", "/fal/proxy", "Status or result, as a proxy", answers=read, **common),
        Operation("PUT", "/fal/proxy", "Cancel, as a proxy", answers={**errors(*USUAL, 404), **cancelled}, **common),
        Operation(
            "POST",
            "/fal/proxy",
            "Submit or run, as a proxy",
            answers={200: told, **errors(499), **_refused(400, 404)},
            body=inputs,
            **common,
        ),
    ]


def _outputs(endpoints: list[Endpoint]) -> Any:
    return _union([endpoint.output for endpoint in endpoints])


def _union(models: list[Any]) -> Any:
    union = models[0]
    for model in models[1:]:
        union = union | model
    return union
