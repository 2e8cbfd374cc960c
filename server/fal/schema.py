"""The forms of fal's answers."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

MAX_NOTED = 10


class LogLine(pydantic.BaseModel):
    message: str
    level: Literal["INFO", "WARN"]
    source: str
    timestamp: str


class Submitted(pydantic.BaseModel):
    status: Literal["IN_QUEUE"]
    request_id: str
    response_url: str
    status_url: str
    cancel_url: str
    queue_position: int


class Status(pydantic.BaseModel):
    status: Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    request_id: str
    response_url: str
    status_url: str
    cancel_url: str
    queue_position: int | None = pydantic.Field(None, description="While IN_QUEUE: how many prompts are done before.")
    logs: list[LogLine] | None = pydantic.Field(description="With logs=1; null without.")
    metrics: dict[str, float] | None = pydantic.Field(None, description="When COMPLETED: inference_time in seconds.")
    error: str | None = pydantic.Field(None, description="When COMPLETED without a result: why.")
    error_type: str | None = None
    progress: dict[str, int] | None = pydantic.Field(
        None, description="Not of fal's: step and steps of what is at work."
    )


class Cancelled(pydantic.BaseModel):
    status: Literal["CANCELLATION_REQUESTED", "ALREADY_COMPLETED"]


def ignored_fields(values: pydantic.BaseModel) -> list[str]:
    """What is to be told of fields that are not known: fal passes over them, and so do we, but not in silence."""
    names: list[Any] = sorted(values.model_extra or {})
    shown = ", ".join(repr(name[:60]) for name in names[:MAX_NOTED])
    return [f"Not known here, and passed over: {shown}."] if names else []
