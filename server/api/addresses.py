"""What this server is called by those who call it."""

from __future__ import annotations

import os

from aiohttp import web

PUBLIC_URL_VARIABLE = "IDEOGRAM4_API_URL"
"""For a server behind a proxy that does not say under which address it was called."""
MAX_LENGTH = 1000


def base_of(request: web.Request) -> str:
    """The address before `/fal` or `/ideogram`, such as https://localhost:8188."""
    fixed = os.environ.get(PUBLIC_URL_VARIABLE, "").strip().rstrip("/")
    if fixed:
        return fixed
    told = request.headers.get("X-Forwarded-Proto", "")
    scheme = told if told in ("http", "https") else request.scheme  # it is told to nobody but this caller
    prefix = "/api" if request.path.startswith("/api/") else ""  # ComfyUI serves everything there too
    return f"{scheme}://{request.host}{prefix}"[:MAX_LENGTH]
