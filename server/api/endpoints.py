"""What can be asked for: how an input becomes a graph for ComfyUI's queue, and what that made becomes an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import pydantic

from .settings import ApiSettings
from .store import Record, Store

Outputs = dict[str, dict[str, Any]]
"""What the nodes of a graph showed, by their ids, as ComfyUI's history has it."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What is known when an input is judged."""

    request_id: str
    base: str
    """Of this server's own addresses, as the client wrote them."""
    settings: ApiSettings
    store: Store


@dataclasses.dataclass(frozen=True)
class Job:
    """An input that was accepted."""

    graph: dict[str, Any]
    notes: list[str] = dataclasses.field(default_factory=list)
    run_name: str = ""
    values: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Made:
    """What a graph has made: files below ComfyUI's output folder, and the answer with {"$file": n} in their places."""

    files: list[dict[str, Any]]
    payload: dict[str, Any]
    notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """`path` is the name of it; `build` raises `Invalid`, `Refusal` or `UserError` before anything is queued."""

    path: str
    summary: str
    input: type[pydantic.BaseModel]
    output: type[pydantic.BaseModel]
    build: Callable[[Any, Context], Awaitable[Job]]
    result: Callable[[Record, Outputs], Made]
    """Called on a thread. Raises `UserError` where what should be there is not."""
    faults: dict[str, str] = dataclasses.field(default_factory=dict)
    """Which field of the input an error's code is about."""
    is_kept: bool = False
    """Its requests are never forgotten, because something else is told by them."""
