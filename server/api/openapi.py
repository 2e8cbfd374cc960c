"""What the HTTP API is, as an OpenAPI 3.1 document, for programs that test it or make clients of it.

It is made of the operations that both contracts describe and of the pydantic models that judge inputs and answers, and
is served with the key like everything else.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic
from aiohttp import web

from .access import Guesses, keyed
from .addresses import base_of

VERSION = "1.0"
"""Of the contracts; not the pack's."""
PATHS = ("/fal/openapi.json", "/ideogram/openapi.json")
JSON, MULTIPART, ANY_BYTES = "application/json", "multipart/form-data", "application/octet-stream"
USUAL = (401, 403, 429, 500)
"""What any operation may answer before it begins, and when a defect of ours ends it."""
WITH_BODY = (408, 413, 415, 507)
"""And what may become of a body."""

_SECURITY = {
    "key": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "`Key` and the key, as fal's."},
    "bearer": {"type": "http", "scheme": "bearer"},
    "api_key": {"type": "apiKey", "in": "header", "name": "Api-Key", "description": "The key, as Ideogram's."},
}
_MEANINGS = {
    200: "Done.",
    202: "Taken, and not done yet.",
    206: "A part of the file.",
    304: "The file has not changed.",
    400: "The request cannot be read, or not now.",
    401: "No key, or a wrong one.",
    403: "The API is off, or a page of another site asks.",
    404: "There is nothing of that name or id.",
    408: "The body arrives too slowly.",
    409: "Not possible in the state that it is in.",
    412: "The file is not the one that the headers name.",
    413: "The body is too large.",
    415: "The body is of another type.",
    416: "The file has no such part.",
    422: "The inputs cannot be used.",
    429: "Too many wrong keys, or too much at once.",
    499: "It was cancelled.",
    500: "It failed on this server.",
    507: "This server's disk is full, or cannot be written to.",
}
_HEADERS = {
    "Retry-After": ("integer", "Seconds."),
    "WWW-Authenticate": ("string", "How to send the key."),
    "X-Fal-Error-Type": ("string", "As error_type in the body."),
    "X-Fal-Request-Id": ("string", "The request that is told about."),
    "Content-Range": ("string", "Which part."),
}
_OF_STATUS = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 416: ("Content-Range",), 206: ("Content-Range",)}


class Error(pydantic.BaseModel):
    detail: str
    error_type: str


class Fault(pydantic.BaseModel):
    loc: list[str | int]
    msg: str
    type: str


class WrongInputs(pydantic.BaseModel):
    detail: list[Fault]
    error_type: str | None = None


@dataclasses.dataclass(frozen=True)
class Answer:
    """A body that an operation may answer with."""

    model: Any = None
    """A type that pydantic knows, of JSON. None: of bytes, or no body at all, as `content_types` has it."""
    headers: tuple[str, ...] = ()
    """That are always there; names in `_HEADERS`."""
    content_types: tuple[str, ...] = ()
    """Of bytes."""


@dataclasses.dataclass(frozen=True)
class Operation:
    """One method of one path: what it takes, and every status that it may answer with."""

    method: str
    path: str
    summary: str
    tag: str
    answers: Mapping[int, Answer]
    body: Any = None
    """A type that pydantic knows, of JSON."""
    files: str = ""
    """The field of a multipart body that holds files; "" for none."""
    parameters: Sequence[Mapping[str, Any]] = ()
    """Besides those in the path, which are texts unless they are named here: as OpenAPI has them."""
    description: str = ""

    @property
    def id(self) -> str:
        words = re.findall(r"[A-Za-z0-9]+", f"{self.method.lower()} {self.path}")
        return "_".join(words)


def parameter(name: str, place: str, schema: Mapping[str, Any], description: str = "") -> dict[str, Any]:
    """As OpenAPI has it. place: path, query or header; only what is in the path has to be there."""
    told = {"description": description} if description else {}
    return {"name": name, "in": place, "required": place == "path", "schema": dict(schema), **told}


def errors(*statuses: int) -> dict[int, Answer]:
    """The answers of these statuses, where nothing else is to be told of them."""
    return {status: Answer(Error, headers=("X-Fal-Error-Type",)) for status in statuses}


def add_routes(routes: web.RouteTableDef, operations: Sequence[Operation], guesses: Guesses) -> None:
    """Serve the document of these operations and of itself, under both contracts."""

    @functools.cache
    def made() -> dict[str, Any]:
        return document([*operations, *ABOUT])

    async def view(request: web.Request) -> web.Response:
        told = {**made(), "servers": [{"url": base_of(request)}]}
        return web.json_response(told, headers={"Cache-Control": "no-store"})

    for path in PATHS:
        routes.get(path)(keyed(view, guesses))


ABOUT = [
    Operation("GET", path, "This document", "about", {200: Answer(dict[str, Any])} | errors(*USUAL)) for path in PATHS
]


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The whole of it, but for `servers`."""
    schemas, definitions = _schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ideogram 4 LoRA Trainer",
            "version": VERSION,
            "description": "fal's and Ideogram's HTTP contracts on this ComfyUI. docs/http-api.md says what differs.",
        },
        "security": [{name: []} for name in _SECURITY],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": _SECURITY,
            "headers": {
                name: {"description": words, "required": True, "schema": {"type": kind}}
                for name, (kind, words) in _HEADERS.items()
            },
        },
    }


Schemas = dict[tuple[Any, Any], Any]


def _schemas(operations: Sequence[Operation]) -> tuple[Schemas, dict[str, Any]]:
    """The schema of each model by (model, mode), and the definitions that these refer to."""
    taken = {(operation.body, "validation") for operation in operations if operation.body}
    given = {(one.model, "serialization") for operation in operations for one in operation.answers.values()}
    wanted = [(model, mode, pydantic.TypeAdapter(model)) for model, mode in taken | given if model is not None]
    wanted.sort(key=lambda one: (str(one[0]), one[1]))  # the same document each time
    schemas, told = pydantic.TypeAdapter.json_schemas(wanted, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    return schemas, told.get("$defs", {})


def _operation(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    named = {one["name"] for one in operation.parameters}
    in_path = [
        parameter(name, "path", {"type": "string", "minLength": 1})
        for name in re.findall(r"{(\w+)}", operation.path)
        if name not in named
    ]
    told: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": [*in_path, *operation.parameters],
        "responses": {
            str(status): _response(status, one, schemas) for status, one in sorted(operation.answers.items())
        },
    }
    if operation.description:
        told["description"] = operation.description
    if operation.body:
        content = {JSON: {"schema": schemas[(operation.body, "validation")]}}
        told["requestBody"] = {"required": True, "content": content}
    elif operation.files:
        files = {"type": "array", "minItems": 1, "items": {"type": "string", "contentMediaType": ANY_BYTES}}
        form = {"type": "object", "required": [operation.files], "properties": {operation.files: files}}
        told["requestBody"] = {"required": True, "content": {MULTIPART: {"schema": form}}}
    return told


def _response(status: int, answer: Answer, schemas: Schemas) -> dict[str, Any]:
    told: dict[str, Any] = {"description": _MEANINGS[status]}
    headers = [*_OF_STATUS.get(status, ()), *answer.headers]
    if headers:
        told["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    if answer.model is not None:
        told["content"] = {JSON: {"schema": schemas[(answer.model, "serialization")]}}
    elif answer.content_types:
        told["content"] = {content_type: {} for content_type in answer.content_types}
    return told
