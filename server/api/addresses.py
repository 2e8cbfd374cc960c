"""What this server is called by those who call it."""

from __future__ import annotations

import os
import re

from aiohttp import web

from ..guard import Refusal

PUBLIC_URL_VARIABLE = "IDEOGRAM4_API_URL"
"""For a server behind a proxy that does not say under which address it was called."""
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")


def base_of(request: web.Request) -> str:
    """The address before `/fal` or `/ideogram`, such as https://localhost:8188. Raises `Refusal`."""
    fixed = os.environ.get(PUBLIC_URL_VARIABLE, "").strip().rstrip("/")
    if fixed:
        return fixed
    told = request.headers.get("X-Forwarded-Proto", "")
    scheme = told if told in ("http", "https") else request.scheme  # it is told to nobody but this caller
    prefix = "/api" if request.path.startswith("/api/") else ""  # ComfyUI serves everything there too
    if not _HOST.fullmatch(request.host):
        raise Refusal(400, "bad_host", "The header Host names no host.")
    return f"{scheme}://{request.host}{prefix}"
