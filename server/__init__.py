"""The pack's HTTP routes on ComfyUI's own server. Thin: check, call, answer.

Below `/ideogram4_lora_trainer` those of the page; below `/fal` and `/ideogram` those of the HTTP API, which ask for a
key.
"""

from __future__ import annotations

from aiohttp import web

from . import datasets, runs, uploads
from .api import openapi, page, unknown
from .api.access import Guesses
from .api.office import Office
from .fal import routes as fal
from .fal.images import IMAGE_TO_IMAGE, TEXT_TO_IMAGE
from .fal.operations import operations as operations_of_fal
from .fal.trainer import TRAINER
from .ideogram import routes as ideogram
from .ideogram.operations import operations as operations_of_ideogram
from .ideogram.training import TRAIN


def register(routes: web.RouteTableDef, app: web.Application) -> None:
    """Add all routes. ComfyUI serves each under `/api` too."""
    datasets.add_routes(routes)
    runs.add_routes(routes)
    uploads.add_routes(routes)
    page.add_routes(routes)
    office, guesses = Office([TRAINER, TEXT_TO_IMAGE, IMAGE_TO_IMAGE, TRAIN]), Guesses()
    fal.add_routes(routes, office, guesses)
    ideogram.add_routes(routes, office, guesses)
    described = [*operations_of_fal(office.endpoints.values()), *operations_of_ideogram()]
    openapi.add_routes(routes, described, guesses)
    unknown.add_routes(routes, [*described, *openapi.ABOUT], guesses)  # the last: it takes all that is left
    app.on_startup.append(office.open_if_left)
