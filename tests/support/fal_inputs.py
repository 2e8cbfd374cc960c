"""Helpers to look at what fal's inputs become."""

from __future__ import annotations

import base64
from typing import Any

ID = "01234567-89ab-4cde-8f01-23456789abcd"
"""Of the request that inputs are built for."""


def data_uri(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def unrolled(graph: dict[str, Any], node_id: str, without: tuple[str, ...] = ()) -> Any:
    """What a node is made from, all the way, whatever the nodes are called."""
    node = graph[node_id]
    inputs = {
        key: (unrolled(graph, value[0], without), value[1]) if isinstance(value, list) else value
        for key, value in node["inputs"].items()
        if key not in without
    }
    return node["class_type"], inputs


def nodes(graph: dict[str, Any], class_type: str) -> list[dict[str, Any]]:
    return [node["inputs"] for node in graph.values() if node["class_type"] == class_type]
