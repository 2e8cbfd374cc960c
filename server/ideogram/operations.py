"""Ideogram's routes as the OpenAPI document has them."""

from __future__ import annotations

from ..api.openapi import Answer, Operation, errors, parameter
from .receive import FIELDS
from .routes import PREFIX, ROUTES

TAG = "ideogram"


def operations() -> list[Operation]:
    """All of them."""
    return [
        Operation(
            route.method,
            PREFIX + route.path,
            route.summary,
            TAG,
            {**errors(*(status for status in (*route.statuses, 500) if status >= 400)), 200: Answer(route.answer)},
            body=route.body,
            files=FIELDS[0] if route.takes_files else "",
            parameters=[parameter(name, "query", schema) for name, schema in route.query.items()],
        )
        for route in ROUTES
    ]
