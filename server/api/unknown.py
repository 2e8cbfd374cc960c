"""What is not served below /fal and /ideogram: said in the same form as everything else, and to whom has the key."""

from __future__ import annotations

import re
from collections.abc import Sequence

from aiohttp import web

from ..guard import Refusal
from .access import Guesses, error_answer, keyed
from .openapi import Operation

ROOTS = ("/fal", "/ideogram")


def add_routes(routes: web.RouteTableDef, operations: Sequence[Operation], guesses: Guesses) -> None:
    """Answer what no route before this one does. `operations` are what there is."""
    patterns = [(re.compile(re.sub(r"{\w+}", "[^/]+", operation.path)), operation.method) for operation in operations]

    async def view(request: web.Request) -> web.Response:
        path = request.path.removeprefix("/api")
        allowed = sorted({method for pattern, method in patterns if pattern.fullmatch(path)})
        if not allowed:
            message = f"Nothing is served at {path[:200]}. /fal/openapi.json says what is."
            raise Refusal(404, "not_found", message)
        message = f"{request.method} is not possible here, only {', '.join(allowed)}."
        answer = error_answer(405, "method_not_allowed", message)
        answer.headers["Allow"] = ", ".join(allowed)
        return answer

    for root in ROOTS:
        routes.route("*", root + "/{tail:.*}")(keyed(view, guesses))
