"""Progress on the node, with ComfyUI's own messages only: text and progress bar over the websocket."""

from __future__ import annotations

import asyncio
import json
import struct
from types import SimpleNamespace
from typing import Any

import aiohttp
import workflows
from datasets import dataset_zip
from workflows import node, node_id

TEXT_EVENT = 3


async def watch(server: SimpleNamespace, graph: workflows.Graph) -> tuple[dict[str, list[str]], list[dict[str, Any]]]:
    """Texts by node id and progress states, in the order they arrive while `graph` runs."""
    texts: dict[str, list[str]] = {}
    progress: list[dict[str, Any]] = []
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
                assert event["type"] != "execution_error", event["data"].get("exception_message")
                if event["type"] == "execution_success":
                    break
    return texts, progress


def test_every_node_tells_what_it_found_and_training_how_far_it_is(comfy_server: SimpleNamespace) -> None:
    comfy_server.client.upload("progress.zip", dataset_zip())
    graph = workflows.load("train_from_zip", steps=40, dataset="progress.zip")
    node(graph, "Ideogram4TrainLoRA")["seed"] = 7
    texts, progress = asyncio.run(watch(comfy_server, graph))

    def said(class_type: str) -> str:
        return " ".join(" ".join(texts[node_id(graph, class_type)]).split())

    assert "progress.zip: 3 images" in said("Ideogram4LoadDataset")
    assert "64x64" in said("Ideogram4ResolveResolution")
    assert "3 images, 3 captions, 64x64" in said("Ideogram4EncodeDataset")
    assert "mean offset rms" in said("Ideogram4EncodeDataset")
    training = texts[node_id(graph, "Ideogram4TrainLoRA")]
    assert "each seen 13.3 times" in training[0]
    assert "normalised with Ideogram's constants" in " ".join(training[0].split())
    assert any(text.startswith("step 1 / 40,\n") for text in training)
    assert training[-1].startswith("step 40 / 40,\n")
    assert all(word in training[-1] for word in ("loss", "s/step", "left"))
    assert "loras/ideogram4_0" in said("Ideogram4SaveLoRA")
    bar = [p for p in progress if str(p["node"]) == node_id(graph, "Ideogram4TrainLoRA")]
    assert bar[-1]["value"] == bar[-1]["max"] == 40
