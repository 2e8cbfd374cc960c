"""Who may call the HTTP API, and the form of its errors.

Covered: off until a key is set; the key compared in constant time; pages of other sites; guesses, which are counted by
the address that they come from; defects of ours, which show nothing of this machine.
Not covered: encryption, which is ComfyUI's (--tls-keyfile) or a proxy's; what else ComfyUI serves, which asks for no
key: to open the API alone to others, let a proxy pass on /fal/ and /ideogram/ and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import ipaddress
import logging
import re
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any

import pydantic
from aiohttp import web

from ...trainer_core.errors import SaveFailed, UserError
from ..guard import Handler, Refusal, refuse_other_sites
from .settings import KEY_VARIABLE, MIN_KEY_LENGTH, ApiSettings, digest, key_of_environment, valid_digest
from .words import without_paths

log = logging.getLogger(__name__)

MAX_WRONG_KEYS, WRONG_KEYS_WINDOW_S = 10, 60.0
MAX_ADDRESSES = 10_000
MAX_KEY_LENGTH = 1024
MAX_ERRORS, MAX_LOC_LENGTH = 20, 100


class Invalid(Exception):
    """Inputs that cannot be used, in the form of fal's answers: one entry each with `loc`, `msg` and `type`."""

    def __init__(self, errors: Sequence[dict[str, Any]]) -> None:
        super().__init__("; ".join(str(error["msg"]) for error in errors))
        self.errors = list(errors)

    @staticmethod
    def field(name: str | Sequence[str | int], code: str, message: str) -> Invalid:
        """One field that is wrong."""
        path = [name] if isinstance(name, str) else list(name)
        return Invalid([{"loc": ["body", *path], "msg": message, "type": code}])

    @staticmethod
    def of(error: pydantic.ValidationError, place: str = "body") -> Invalid:
        """What pydantic found, without the values: they may be long, and are the client's own."""
        found = error.errors(include_url=False, include_input=False, include_context=False)[:MAX_ERRORS]
        return Invalid([{"loc": [place, *_place(one["loc"])], "msg": one["msg"], "type": one["type"]} for one in found])


def _place(loc: Sequence[str | int]) -> list[str | int]:
    """Where an error is: without the kinds that a value could have had, which pydantic adds; and never long."""
    shortened = [part[:MAX_LOC_LENGTH] if isinstance(part, str) else part for part in loc]
    return [part for part in shortened if isinstance(part, int) or not re.search(r"\[|^[A-Z]\w+Size$", part)]


class Guesses:
    """Wrong keys by the address that they came from."""

    def __init__(self) -> None:
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def refuse(self, address: str) -> None:
        """Raise `Refusal` after too many wrong keys, whatever comes now: else the limit would tell the right one."""
        times = self._times.get(_network(address), deque())
        while times and time.monotonic() - times[0] > WRONG_KEYS_WINDOW_S:
            times.popleft()
        if len(times) >= MAX_WRONG_KEYS:
            message = f"Too many wrong keys came from your address. Try again in {WRONG_KEYS_WINDOW_S:.0f} s."
            raise Refusal(429, "too_many_wrong_keys", message)

    def count(self, address: str) -> None:
        times = self._times.setdefault(_network(address), deque(maxlen=MAX_WRONG_KEYS))
        times.append(time.monotonic())
        self._times.move_to_end(_network(address))
        while len(self._times) > MAX_ADDRESSES:
            self._times.popitem(last=False)


def _network(address: str) -> str:
    """Whoever has one IPv6 address has 2**64 of them."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and not parsed.ipv4_mapped:
        return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)


def check_key(request: web.Request, guesses: Guesses) -> None:
    """Raise `Refusal` unless the request brings the key that is set."""
    expected = valid_digest(ApiSettings.load())
    if not expected:
        raise Refusal(403, "api_off", _how_to_turn_on())
    caller = _caller(request)
    guesses.refuse(caller)
    given = _given_key(request)
    if not given:
        message = "Send the key that is set in ComfyUI, as Authorization: Key ..., Bearer ..., or as Api-Key: ..."
        raise Refusal(401, "no_key", message)
    if not hmac.compare_digest(digest(given), expected):
        guesses.count(caller)
        raise Refusal(401, "wrong_key", "This is not the key that is set in ComfyUI.")


def _how_to_turn_on() -> str:
    if key_of_environment():
        return f"The HTTP API is off: the key in {KEY_VARIABLE} is shorter than {MIN_KEY_LENGTH} characters."
    return (
        "The HTTP API is off. Set a key in ComfyUI's settings under Ideogram 4 LoRA Trainer, or in the environment as "
        f"{KEY_VARIABLE}."
    )


def _caller(request: web.Request) -> str:
    """The address that a call comes from. That of a proxy's caller, where the proxy is on this machine and says it."""
    address = request.remote or ""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(address).is_loopback:
            told = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
            return str(ipaddress.ip_address(told)) if told else address
    return address


def _given_key(request: web.Request) -> str:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() not in ("key", "bearer"):
        key = request.headers.get("Api-Key", "")
    return key.strip()


def keyed(handler: Handler, guesses: Guesses) -> Handler:
    """Let only callers with the key through, and answer errors as `{"detail": ..., "error_type": ...}`."""

    @functools.wraps(handler)
    async def checked(request: web.Request) -> web.StreamResponse:
        try:
            refuse_other_sites(request)
            check_key(request, guesses)
            return await handler(request)
        except Refusal as refusal:
            return error_answer(refusal.status, refusal.code, str(refusal))
        except Invalid as invalid:
            return invalid_answer(invalid)
        except SaveFailed as error:
            return error_answer(507, error.code, without_paths(str(error)))
        except UserError as error:
            return error_answer(400, error.code, without_paths(str(error)))
        except ConnectionError:
            # Whoever asked is gone, which is no defect: raised on, it would fill the log with tracebacks.
            return error_answer(400, "unreadable", "The connection was lost.")
        except (web.HTTPException, asyncio.CancelledError):
            raise
        except Exception:
            # Boundary with the network: a defect of ours must not show a stranger where our files lie.
            log.exception("%s %s failed.", request.method, request.path)
            return error_answer(500, "internal_error", "Something went wrong here. ComfyUI's console says what.")

    return checked


def error_answer(status: int, code: str, message: str) -> web.Response:
    headers = {"Cache-Control": "no-store", "X-Fal-Error-Type": code}
    if status == 401:
        headers["WWW-Authenticate"] = "Key"
    if status == 429:
        headers["Retry-After"] = str(int(WRONG_KEYS_WINDOW_S))
    return web.json_response({"detail": message, "error_type": code}, status=status, headers=headers)


def invalid_answer(invalid: Invalid) -> web.Response:
    code = str(invalid.errors[0]["type"])
    headers = {"Cache-Control": "no-store", "X-Fal-Error-Type": code}
    return web.json_response({"detail": invalid.errors, "error_type": code}, status=422, headers=headers)
