"""What a running node tells the open pages: text on the node, and that its run has news."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable

import server
from comfy_api.latest import io

UPDATE_INTERVAL_S = 0.5
LINE_LENGTH = 40
"""Characters that fit on a node of ordinary width."""


def show_text(node: type[io.ComfyNode], text: str) -> None:
    """Show `text` on the node that is running, in every open tab of whoever queued it.

    Lines are broken between words here, because the frontend breaks them anywhere.
    """
    prompt_server = getattr(server.PromptServer, "instance", None)
    if prompt_server is not None and node.hidden.unique_id is not None:
        prompt_server.send_progress_text(wrapped(text), node.hidden.unique_id, prompt_server.client_id)


def wrapped(text: str) -> str:
    """`text` in lines of at most `LINE_LENGTH` characters, where its words allow it."""
    lines = (
        textwrap.wrap(line, LINE_LENGTH, break_long_words=False, break_on_hyphens=False) for line in text.split("\n")
    )
    return "\n".join("\n".join(line) for line in lines)


def origin_of(node: type[io.ComfyNode]) -> dict[str, str]:
    """Which node of which workflow is running: `workflow` is the id of the graph in the page, "" without a page."""
    info = node.hidden.extra_pnginfo
    workflow = info.get("workflow") if isinstance(info, dict) else None
    graph_id = workflow.get("id") if isinstance(workflow, dict) else None
    return {"node": str(node.hidden.unique_id or ""), "workflow": str(graph_id or "")[:100]}


class RunEvents:
    """Tells every open page that a run's journal has news, for pages to read what they show from there."""

    def __init__(self, node: type[io.ComfyNode]) -> None:
        self._origin = origin_of(node)
        self._run = ""
        self._send = Throttle(self._tell)

    def __call__(self, run: str, event: str) -> None:
        self._run = run
        self._send("", force=event != "step")

    def note(self, text: str) -> None:
        """Tell a note in the message itself too: where the disk is full no journal has it."""
        self._send(text, force=True)

    def _tell(self, note: str) -> None:
        prompt_server = getattr(server.PromptServer, "instance", None)
        if prompt_server is not None:
            words = {"note": note} if note else {}
            prompt_server.send_sync("ideogram4_lora_trainer.run", {**self._origin, "run": self._run, **words})


class Throttle:
    """Pass texts on at most every half second, so that fast steps do not flood the connection."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._next_time_s = 0.0

    def __call__(self, text: str, *, force: bool = False) -> None:
        now = time.monotonic()
        if force or now >= self._next_time_s:
            self._next_time_s = now + UPDATE_INTERVAL_S
            self._show(text)
