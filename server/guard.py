"""What every route checks before anything else, and the form of its errors.

Covered: pages of other sites (refused, also when they only read), bodies of any size and form (capped, JSON objects
only), errors of ours that would show a path or a traceback (a `UserError` is told in words, anything else is logged and
answered with 500).
Not covered: who may reach ComfyUI's server at all, which is ComfyUI's to decide.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from ..trainer_core.errors import UserError

log = logging.getLogger(__name__)

PREFIX = "/ideogram4_lora_trainer"
MAX_JSON_BYTES = 256 * 2**10
BODY_TIMEOUT_S = 60.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refusal(Exception):
    """An answer other than success: HTTP status, a stable code for programs, and words for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def guarded(handler: Handler) -> Handler:
    """Refuse other sites, and answer errors as `{"error": {"code": ..., "message": ...}}`."""

    @functools.wraps(handler)
    async def checked(request: web.Request) -> web.StreamResponse:
        try:
            refuse_other_sites(request)
            return await handler(request)
        except Refusal as refusal:
            return _error(refusal.status, refusal.code, str(refusal))
        except UserError as error:
            return _error(400, error.code, str(error))
        except (web.HTTPException, asyncio.CancelledError, ConnectionError):
            raise
        except Exception:
            # Boundary with the network: a defect of ours must not show a stranger where our files lie.
            log.exception("%s %s failed.", request.method, request.path)
            return _error(500, "internal_error", "Something went wrong here. ComfyUI's console says what.")

    return checked


def refuse_other_sites(request: web.Request) -> None:
    """Raise `Refusal` for a request that a page of another site makes. Programs, which send neither header, pass."""
    site = request.headers.get("Sec-Fetch-Site", "")
    if site in ("same-origin", "none"):
        return  # the browser's own word, which no page can change; a proxy may have changed Host
    origin = request.headers.get("Origin")
    if site or (origin is not None and urlsplit(origin).netloc.lower() != request.host.lower()):
        raise Refusal(403, "cross_origin", "Requests from pages of other sites are refused.")


async def read_json(request: web.Request, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in the body of a POST. Raises `Refusal`."""
    if request.content_type != "application/json":
        raise Refusal(415, "not_json", "Send a JSON object, with Content-Type: application/json.")
    body = await read_body(request, max_bytes)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Refusal(400, "not_json", "The body is not a JSON object.")
    return value


async def read_body(request: web.Request, max_bytes: int) -> bytes:
    """The body of a request, of at most `max_bytes`. Raises `Refusal`."""
    too_large = Refusal(413, "too_large", f"The body has more than {max_bytes:,} bytes.")
    if (request.content_length or 0) > max_bytes:
        raise too_large

    async def collect() -> bytes:
        body = bytearray()
        async for chunk in request.content.iter_chunked(2**16):
            body += chunk
            if len(body) > max_bytes:
                raise too_large
        return bytes(body)

    try:
        return await asyncio.wait_for(collect(), BODY_TIMEOUT_S)
    except web.RequestPayloadError:
        raise Refusal(400, "unreadable", "The body is not in the encoding that its header names.") from None
    except asyncio.TimeoutError:
        raise Refusal(408, "too_slow", f"The body did not arrive within {BODY_TIMEOUT_S:.0f} s.") from None


def text_of(values: dict[str, Any], name: str, max_length: int = 1000) -> str:
    """A text among the values of a body. Raises `Refusal`."""
    value = values.get(name)
    if not isinstance(value, str) or len(value) > max_length:
        raise Refusal(400, "bad_value", f"{name} must be a text of at most {max_length:,} characters.")
    return value


def number_of(values: dict[str, Any], name: str, low: int, high: int) -> int:
    """A whole number among the values of a body. Raises `Refusal`."""
    value = values.get(name)
    if type(value) is not int or not low <= value <= high:
        raise Refusal(400, "bad_value", f"{name} must be a whole number from {low:,} to {high:,}.")
    return value


def number_in_path(request: web.Request, name: str, high: int) -> int:
    """A whole number from 0 to `high` that is a part of the path. Raises `Refusal`."""
    text = request.match_info[name]
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > high:
        raise Refusal(404, "not_found", "There is nothing of that number.")
    return int(text)


def _error(status: int, code: str, message: str) -> web.Response:
    # ComfyUI would let a browser keep the answer for an address that ends like a picture's.
    headers = {"Cache-Control": "no-store"}
    return web.json_response({"error": {"code": code, "message": message}}, status=status, headers=headers)
