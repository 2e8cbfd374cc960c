"""What the open pages are told over the websocket: texts, the progress bar, and that a run has news."""

from __future__ import annotations

import asyncio
import json
import struct
from types import SimpleNamespace
from typing import Any

import aiohttp
import workflows
from datasets import dataset_zip
from workflows import node_id

TEXT_EVENT = 3


async def watch(
    server: SimpleNamespace, graph: workflows.Graph
) -> tuple[dict[str, list[str]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Texts by node id, progress states and news of runs, in the order they arrive while `graph` runs."""
    texts: dict[str, list[str]] = {}
    progress: list[dict[str, Any]] = []
    news: list[dict[str, Any]] = []
    url = f"{server.client.url}/ws?clientId={server.client.client_id}"
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        await asyncio.to_thread(server.client.queue, graph)
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                event, length = struct.unpack(">II", message.data[:8])
                if event == TEXT_EVENT:
                    owner = message.data[8 : 8 + length].decode()
                    texts.setdefault(owner, []).append(message.data[8 + length :].decode())
            elif message.type == aiohttp.WSMsgType.TEXT:
                event = json.loads(message.data)
                if event["type"] == "progress":
                    progress.append(event["data"])
                if event["type"] == "ideogram4_lora_trainer.run":
                    news.append(event["data"])
                assert event["type"] != "execution_error", event["data"].get("exception_message")
                if event["type"] == "execution_success":
                    break
    return texts, progress, news


def test_nodes_tell_what_they_found_and_training_that_there_is_news(comfy_server: SimpleNamespace) -> None:
    comfy_server.client.upload("progress.zip", dataset_zip())
    graph = workflows.load("train_from_zip", steps=40, dataset="progress.zip")
    train = node_id(graph, "Ideogram4TrainLoRA")
    graph[train]["inputs"].update(seed=7, run_name="told")
    texts, progress, news = asyncio.run(watch(comfy_server, graph))

    def said(class_type: str) -> str:
        return " ".join(" ".join(texts[node_id(graph, class_type)]).split())

    assert "64x64" in said("Ideogram4ResolveResolution")
    assert "3 images, 3 captions, 64x64" in said("Ideogram4EncodeDataset")
    assert "mean offset rms" in said("Ideogram4EncodeDataset")
    bar = [p for p in progress if str(p["node"]) == train]
    assert bar[-1]["value"] == bar[-1]["max"] == 40
    # What the panel shows it reads from the journal; messages only say that there is something to read.
    assert news and all(event == {"node": train, "workflow": "", "run": "told_00001"} for event in news)
    last = json.loads((comfy_server.output / "ideogram4_runs/told_00001/journal.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "finished"
