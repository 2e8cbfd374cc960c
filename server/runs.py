"""Routes that let the train node, or any program, watch runs and ask something of them.

The id of a run is the name of its folder. It is looked up among the folders that are there, so no text of a client
becomes a path. What a run's folder holds is read only from regular files inside of it. All disk work is done in
threads, so that a slow disk does not hold up ComfyUI's server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import folder_paths
from aiohttp import web

from ..trainer_core.paths import PathOutsideRoot, resolve_inside
from ..trainer_core.storage import open_regular
from ..trainer_core.training.checkpoints import list_checkpoints, subfolders
from ..trainer_core.training.lock import is_locked
from ..trainer_core.training.previews import preview_file, preview_thumb
from ..trainer_core.training.requests import REQUESTS, ask
from ..trainer_core.training.runs import list_runs
from .guard import PREFIX, Refusal, guarded, number_in_path, read_json, text_of
from .run_journal import RunSummary, read_part, summarise

MAX_RUNS = 50
MAX_STEP, MAX_PROMPT = 999_999, 99
MAX_FILE_BYTES = 64 * 2**20
FILES = {"loss.csv": "text/csv", "loss.png": "image/png"}
"""Those of a run's folder that can be fetched, and their types. run.json is not: it tells where folders lie."""
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"


def runs_folder() -> Path:
    """Where the train node keeps its runs."""
    return Path(folder_paths.get_output_directory()) / "ideogram4_runs"


def add_routes(routes: web.RouteTableDef, *, folder: Callable[[], Path] = runs_folder) -> None:
    """Add the routes of the runs in a folder."""
    summaries: dict[str, RunSummary] = {}
    """What is known of journals that have not changed since: they are read once."""

    @routes.get(f"{PREFIX}/runs")
    @guarded
    async def runs(_request: web.Request) -> web.Response:
        return web.json_response({"runs": await asyncio.to_thread(_runs, folder(), summaries)})

    @routes.get(PREFIX + "/runs/{run}/journal")
    @guarded
    async def journal(request: web.Request) -> web.Response:
        run = await _run(request, folder())
        part = await asyncio.to_thread(_journal, run, _offset(request))
        return web.Response(body=part, content_type="application/json")

    @routes.get(PREFIX + "/runs/{run}/previews/{step}/{prompt}")
    @guarded
    async def preview(request: web.Request) -> web.Response:
        step, prompt = number_in_path(request, "step", MAX_STEP), number_in_path(request, "prompt", MAX_PROMPT)
        run = await _run(request, folder())
        content_type, content = await asyncio.to_thread(_preview, run, step, prompt, request.query.get("size", ""))
        # A step that is done again after a resume has a new picture under the same address: the page adds its time.
        return _file(content, content_type, cache="private, max-age=3600")

    @routes.get(PREFIX + "/runs/{run}/files/{name}")
    @guarded
    async def file(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in FILES:
            raise Refusal(404, "not_found", f"Only {', '.join(FILES)} of a run can be fetched.")
        run = await _run(request, folder())
        content = await asyncio.to_thread(_content, run, name)
        response = _file(content, FILES[name], cache="private, no-cache")
        if name != "loss.png":
            response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        return response

    @routes.post(PREFIX + "/runs/{run}/requests")
    @guarded
    async def requests(request: web.Request) -> web.Response:
        what = text_of(await read_json(request), "request")
        if what not in REQUESTS:
            raise Refusal(400, "bad_value", f"request must be one of: {', '.join(REQUESTS)}.")
        run = await _run(request, folder())
        if not await asyncio.to_thread(is_locked, run):
            raise Refusal(409, "not_running", f"{run.name} is not being trained, so nothing can be asked of it.")
        await asyncio.to_thread(ask, run, what)
        return web.json_response({"request": what})


async def _run(request: web.Request, root: Path) -> Path:
    """The folder of the run that the address names. Raises `Refusal`."""
    run = await asyncio.to_thread(_find, root, request.match_info["run"])
    if run is None:
        raise Refusal(404, "no_such_run", "There is no such run. Its folder may have been deleted.")
    return run


def _find(root: Path, name: str) -> Path | None:
    """As `name in list_runs(root)`, without looking into the others."""
    for run in subfolders(root):
        if run.name == name and list_checkpoints(run):
            return run
    return None


def _runs(root: Path, summaries: dict[str, RunSummary]) -> list[dict[str, object]]:
    names = list_runs(root)[:MAX_RUNS]
    told = []
    for name in names:
        summary = summarise(root / name, summaries.get(name))
        summaries[name] = summary
        told.append({"id": name, **summary.to_json(active=is_locked(root / name))})
    for name in set(summaries) - set(names):
        summaries.pop(name, None)
    return told


def _offset(request: web.Request) -> int:
    text = request.query.get("offset", "0")
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise Refusal(400, "bad_value", "offset must be a whole number of bytes.")
    return int(text)


def _journal(run: Path, offset: int) -> bytes:
    # Looked at before the journal: what a run wrote before it let go of its lock is then surely read.
    active = is_locked(run)
    files = [name for name in FILES if (run / name).is_file()]
    return read_part(run, offset, active=active, files=files)


def _preview(run: Path, step: int, prompt: int, size: str) -> tuple[str, bytes]:
    """Content type and bytes of a preview, of its small copy if that is asked for and there. Raises `Refusal`."""
    if size == "thumb":
        with contextlib.suppress(Refusal):
            content = _content(run, preview_thumb(step, prompt))
            if content.startswith(_JPEG):
                return "image/jpeg", content
    content = _content(run, preview_file(step, prompt))
    if not content.startswith(_PNG):
        raise Refusal(404, "not_found", "This preview is not a picture.")
    return "image/png", content


def _content(run: Path, name: str) -> bytes:
    """The bytes of a file below the folder of a run. Raises `Refusal`."""
    with contextlib.suppress(OSError, PathOutsideRoot):
        path = resolve_inside(run, name)
        if path == Path(os.path.realpath(run)) / name:  # else a link, which may lead anywhere
            with open_regular(path, os.O_RDONLY) as file:
                content = file.read(MAX_FILE_BYTES + 1)
            if len(content) <= MAX_FILE_BYTES:
                return content
    raise Refusal(404, "not_found", f"This run has no {name.rpartition('/')[2]}.")


def _file(content: bytes, content_type: str, *, cache: str) -> web.Response:
    headers = {"Cache-Control": cache, "X-Content-Type-Options": "nosniff"}
    return web.Response(body=content, content_type=content_type, headers=headers)
