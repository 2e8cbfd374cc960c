"""The pack's HTTP routes on ComfyUI's own server, all below `/ideogram4_lora_trainer`. Thin: check, call, answer."""

from __future__ import annotations

from aiohttp import web

from . import datasets, runs, uploads


def register(routes: web.RouteTableDef) -> None:
    """Add all routes. ComfyUI serves each under `/api` too."""
    datasets.add_routes(routes)
    runs.add_routes(routes)
    uploads.add_routes(routes)
