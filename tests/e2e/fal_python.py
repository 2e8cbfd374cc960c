"""fal's own client for Python, as a user of the hosted trainer has it in a script: run with FAL_KEY and the two hosts.

Reads a JSON object from stdin, `{"call": NAME, ...}`, and prints one.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import fal_client
import httpx

TRAINER = "ideogram/v4/trainer"


def subscribe(arguments: dict[str, Any], application: str = TRAINER) -> dict[str, Any]:
    """Train, and follow it with logs, as fal's manual does."""
    logs: list[list[str]] = []

    def follow(update: Any) -> None:
        if isinstance(update, fal_client.InProgress):
            logs.append([line["message"] for line in update.logs])

    result = fal_client.subscribe(application, arguments=arguments, with_logs=True, on_queue_update=follow)
    return {"result": result, "logs": logs, "files": _fetched(result)}


async def subscribe_async(arguments: dict[str, Any], application: str = TRAINER) -> dict[str, Any]:
    handle = await fal_client.submit_async(application, arguments=arguments)
    seen = [type(status).__name__ async for status in handle.iter_events(with_logs=True, interval=0.05)]
    return {"result": await handle.get(), "seen": seen, "request_id": handle.request_id}


def run(arguments: dict[str, Any], application: str = TRAINER) -> dict[str, Any]:
    return {"result": fal_client.run(application, arguments=arguments)}


def failures(several: list[dict[str, Any]], application: str = TRAINER) -> list[dict[str, Any]]:
    """What each of these arguments comes to."""
    told = []
    for arguments in several:
        try:
            fal_client.subscribe(application, arguments=arguments)
            told.append({})
        except fal_client.FalClientHTTPError as error:
            told.append({"status": error.status_code, "detail": error.message, "type": error.error_type})
    return told


def cancel(arguments: dict[str, Any], application: str = TRAINER) -> dict[str, Any]:
    """Begin, wait until it is at work, cancel, and wait for its end."""
    handle = fal_client.submit(application, arguments=arguments)
    for status in handle.iter_events(with_logs=True, interval=0.05):
        if isinstance(status, fal_client.InProgress) and any("Step " in line["message"] for line in status.logs):
            handle.cancel()
            break
    *_, last = handle.iter_events(with_logs=True, interval=0.05)
    try:
        handle.get()
    except fal_client.FalClientHTTPError as error:
        return {"error": last.error, "type": last.error_type, "status": error.status_code}
    return {}


def _fetched(result: dict[str, Any]) -> dict[str, Any]:
    """Size and type of each file of a result, as they come with the key; and the answer without."""
    headers = {"Authorization": f"Key {fal_client.auth.fetch_auth_credentials().token}"}
    fetched = {}
    for name in ("diffusers_lora_file", "config_file"):
        answer = httpx.get(result[name]["url"], headers=headers)
        without = httpx.get(result[name]["url"]).status_code
        content_type = answer.headers["content-type"]
        fetched[name] = {"bytes": len(answer.content), "content_type": content_type, "without_key": without}
    return fetched


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    call = globals()[asked.pop("call")]
    answer = call(**asked)
    print(json.dumps(asyncio.run(answer) if asyncio.iscoroutine(answer) else answer))
