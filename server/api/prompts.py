"""ComfyUI's own queue: the one file that touches it. All of this runs on the server's event loop."""

from __future__ import annotations

import copy
import time
from typing import Any

import execution
from comfy_execution.progress import NodeState, get_progress_state
from server import PromptServer

from ..guard import Refusal
from .words import without_paths

Graph = dict[str, dict[str, Any]]
Outcome = dict[str, Any]


async def put(graph: Graph, prompt_id: str) -> None:
    """Put a graph at the end of the queue, as ComfyUI's own /prompt does. Raises `Refusal` where it is not accepted."""
    server = PromptServer.instance
    graph = copy.deepcopy(graph)  # the executor writes into it
    graph = server.trigger_on_prompt({"prompt": graph, "prompt_id": prompt_id}).get("prompt", graph)  # for other packs
    if replacements := getattr(server, "node_replace_manager", None):  # where a newer ComfyUI has renamed a node
        replacements.apply_replacements(graph)
    valid, error, outputs, node_errors = await execution.validate_prompt(prompt_id, graph, None)
    if not valid or node_errors:  # with node errors ComfyUI would run the rest, and end without what was asked for
        raise Refusal(422, "graph_rejected", without_paths(_why(error, node_errors)))
    number = server.number
    server.number += 1
    server.prompt_queue.put((number, prompt_id, graph, {"create_time": int(time.time() * 1000)}, outputs, {}))


def _why(error: dict[str, Any] | None, node_errors: dict[str, Any]) -> str:
    details = [
        f"{node['class_type']}: {fault['message']}: {fault['details']}"
        for node in node_errors.values()
        for fault in node["errors"]
    ]
    return "ComfyUI does not accept this: " + ("; ".join(details) or str(error and error.get("message")))[:2000]


def place(prompt_id: str) -> int | None:
    """How many prompts are done before this one: 0 while it is next, -1 while it runs, None when it is in no queue."""
    running, queued = PromptServer.instance.prompt_queue.get_current_queue_volatile()
    if any(item[1] == prompt_id for item in running):
        return -1
    own = next((item for item in queued if item[1] == prompt_id), None)
    if own is None:
        return None
    return len(running) + sum(item[:2] < own[:2] for item in queued)


def at_work(prompt_id: str) -> tuple[str, int, int]:
    """The node that works on a prompt, and how many of how many parts it has done; ("", 0, 0) for none."""
    progress = get_progress_state()
    if progress.prompt_id == prompt_id:
        for node_id, node in list(progress.nodes.items()):
            if node["state"] is NodeState.Running:
                return node_id, int(node["value"]), int(node["max"])
    return "", 0, 0


def outcome(prompt_id: str) -> Outcome | None:
    """What ComfyUI's history has of a prompt that ended: `outputs` by node, and `status`."""
    return PromptServer.instance.prompt_queue.get_history(prompt_id=prompt_id).get(prompt_id)


def take_out(prompt_id: str) -> bool:
    """Take a prompt out of the queue, or interrupt it while it runs. False when it is in no queue."""
    queue = PromptServer.instance.prompt_queue
    return queue.delete_queue_item(lambda item: item[1] == prompt_id) or queue.interrupt_if_running(prompt_id)
