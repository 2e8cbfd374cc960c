"""What the settings page shows and sets of the HTTP API: the key that opens it, the model files, the size of datasets.

Covered: pages of other sites; a key that no client could send; names that ComfyUI's loaders do not list; two pages that
set something at once. The key itself is neither kept nor sent back.
Not covered: who may open ComfyUI's page. Whoever can may set the key, as they may run anything else here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import threading
from typing import Any

from aiohttp import web

from ...trainer_core.errors import SaveFailed
from ...trainer_core.storage import open_regular
from ..guard import PREFIX, Refusal, guarded, number_of, read_json, text_of
from .access import MAX_KEY_LENGTH
from .addresses import base_of
from .base_models import FOLDERS, listed, standard_file
from .settings import (
    KEY_VARIABLE,
    LARGEST_MAX_IMAGES,
    MAX_FILE_BYTES,
    MIN_KEY_LENGTH,
    MODEL_KINDS,
    ApiSettings,
    api_folder,
    digest,
    key_of_environment,
    valid_digest,
)
from .words import without_paths

MAX_BODY_BYTES = 16 * 2**10
MAX_NAME_LENGTH = 1000
LEAST_MAX_IMAGES = 15
"""Of `max_images`: Ideogram asks for 15 images at least."""


def add_routes(routes: web.RouteTableDef) -> None:
    """Add the page's own routes."""
    views = _Views()
    routes.get(f"{PREFIX}/api")(guarded(views.show))
    routes.post(f"{PREFIX}/api")(guarded(views.change))


class _Views:
    def __init__(self) -> None:
        self._changing = threading.Lock()

    async def show(self, request: web.Request) -> web.Response:
        return await _state(request)

    async def change(self, request: web.Request) -> web.Response:
        """Set what the body names of `key` (null turns the API off), `models` and `max_images`, or nothing."""
        wishes = await read_json(request, MAX_BODY_BYTES)
        await asyncio.to_thread(self._change, wishes)
        return await _state(request)

    def _change(self, wishes: dict[str, Any]) -> None:
        if not set(wishes) <= {"key", "models", "max_images"}:
            raise Refusal(400, "bad_value", "Only key, models and max_images can be set here.")
        changes: dict[str, Any] = {}
        if "key" in wishes:
            changes["key_sha256"] = _key_digest(wishes)
        if "max_images" in wishes:
            changes["max_images"] = number_of(wishes, "max_images", LEAST_MAX_IMAGES, LARGEST_MAX_IMAGES)
        chosen = _chosen_models(wishes["models"]) if "models" in wishes else {}
        with self._changing:  # from reading to writing: another page may set something else meanwhile
            settings = ApiSettings.load()
            models = {kind: name for kind, name in (settings.models | chosen).items() if name}
            try:
                dataclasses.replace(settings, models=models, **changes).save()
            except SaveFailed as error:
                raise Refusal(507, error.code, without_paths(str(error))) from None


# ---- what is shown -------------------------------------------------------------------------------------------


async def _state(request: web.Request) -> web.Response:
    told = await asyncio.to_thread(_told)
    told["addresses"] = _addresses(request)
    return web.json_response(told, headers={"Cache-Control": "no-store"})


def _told() -> dict[str, Any]:
    settings = ApiSettings.load()
    choices = {kind: list(listed(kind)) for kind in MODEL_KINDS}
    on = bool(valid_digest(settings))
    return {
        "on": on,
        "source": "environment" if key_of_environment() else "settings" if on else "",
        "problem": _problem(on),
        "models": {kind: settings.models.get(kind, "") for kind in MODEL_KINDS},
        "choices": choices,
        "standard": {kind: standard_file(kind) for kind in choices},
        "max_images": settings.max_images,
    }


def _problem(on: bool) -> str:
    if key_of_environment() and not on:
        return (
            f"The key in {KEY_VARIABLE} is shorter than {MIN_KEY_LENGTH} characters, so the API is off. Set a longer "
            "one there and start ComfyUI again."
        )
    if _is_damaged():
        return (
            "The file with the settings of the HTTP API is damaged and counts as not there. Make a new key and choose "
            "your files again: that replaces it."
        )
    return ""


def _is_damaged() -> bool:
    path = api_folder() / "settings.json"
    if not os.path.lexists(path):
        return False
    try:
        with open_regular(path, os.O_RDONLY) as file:
            return not isinstance(json.loads(file.read(MAX_FILE_BYTES)), dict)
    except (OSError, ValueError, RecursionError):
        return True


def _addresses(request: web.Request) -> dict[str, str]:
    """What clients are to be told: without the /api that the page itself calls under."""
    base = base_of(request.clone(rel_url=f"{PREFIX}/api"))
    host = base.partition("://")[2]
    return {
        "base": base,
        "fal_run_host": f"{host}/fal/run",
        "fal_queue_run_host": f"{host}/fal/queue",
        "fal_proxy": f"{base}/fal/proxy",
        "ideogram": f"{base}/ideogram",
        "openapi": f"{base}/fal/openapi.json",
    }


# ---- what is set ---------------------------------------------------------------------------------------------


def _key_digest(wishes: dict[str, Any]) -> str:
    """SHA-256 of the key that is asked for, "" to turn the API off. Raises `Refusal`."""
    if key_of_environment():
        message = f"The key is set in the environment as {KEY_VARIABLE}. Change it there and start ComfyUI again."
        raise Refusal(409, "key_of_environment", message)
    key = wishes["key"]
    if key is None:
        return ""
    if not isinstance(key, str) or not MIN_KEY_LENGTH <= len(key) <= MAX_KEY_LENGTH:
        message = f"A key must be a text of {MIN_KEY_LENGTH} to {MAX_KEY_LENGTH:,} characters."
        raise Refusal(400, "bad_key", message)
    if not all("!" <= character <= "~" for character in key):
        message = "A key is sent in a header: use letters of the English alphabet, digits and signs, without spaces."
        raise Refusal(400, "bad_key", message)
    return digest(key)


def _chosen_models(models: Any) -> dict[str, str]:
    """Names by kind; "" or null for the standard file. Raises `Refusal`."""
    if not isinstance(models, dict) or not set(models) <= set(MODEL_KINDS):
        raise Refusal(400, "bad_value", f"models must be an object with any of {', '.join(MODEL_KINDS)}.")
    chosen = {kind: text_of(models, kind, MAX_NAME_LENGTH) if models[kind] is not None else "" for kind in models}
    for kind, name in chosen.items():
        if name and name not in listed(kind):
            message = f"ComfyUI has no file of the name chosen for {kind} in models/{FOLDERS[kind]}. Choose another."
            raise Refusal(400, "model_not_found", message)
    return chosen
