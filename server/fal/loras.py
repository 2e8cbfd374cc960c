"""Which LoRA a client means by a path: one that this server has made, one that ComfyUI lists, or one at an address.

Covered: a text never becomes a path of this machine: it is compared with the names that ComfyUI's loader lists. Names
that fit several files. Addresses that may not be called, before anything is queued.
Not covered: what is behind an address, which the loader node judges when its turn comes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import folder_paths
import pydantic

from ...trainer_core.errors import LoraUnreadable
from ...trainer_core.paths import shown
from ...trainer_core.remote import check_url
from ..api.graphs import Graph
from ..api.own_files import own_file
from ..api.store import Store
from ..ideogram.models import Models

MAX_LORAS = 3
MAX_PATH_LENGTH = 8192
MODELS_FOLDER = "ideogram"
"""Of LoRAs that were trained by name, in ComfyUI's lora folders."""
SUFFIX = ".safetensors"
NOTHING = "none"
"""What is chosen in the loader's list where an address takes its place."""
MAX_LISTED = 10
_MODEL = re.compile(r"model/[a-z0-9-]+/version/[0-9]+")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|data:", re.IGNORECASE)


class LoraWeight(pydantic.BaseModel):
    path: str = pydantic.Field(
        description="The address of a file that this server has made; a name as ComfyUI's LoRA loaders list it, with "
        "or without its folders and suffix; the name of a model trained here, or its custom_model_uri; or an https "
        "address of a safetensors file.",
        min_length=1,
        max_length=MAX_PATH_LENGTH,
    )
    scale: float = pydantic.Field(1.0, ge=0, le=4)


def find_lora(path: str, store: Store) -> dict[str, str]:
    """The inputs of the loader node for a path. Looks at disks and asks name servers. Raises `UserError`."""
    path = path.strip()
    own = own_file(path, store)
    if own is not None:
        return {"lora_name": _listed_as(own), "url": ""}
    if _MODEL.fullmatch(path):
        file = Models().file_of(path, store)
        if file is None:
            raise LoraUnreadable(f"There is no model {shown(path)} here, or its LoRA was deleted.")
        return {"lora_name": _listed_as(Path(os.path.realpath(file))), "url": ""}
    if _ADDRESS.match(path):
        check_url(path, what="lora")
        return {"lora_name": NOTHING, "url": path}
    return {"lora_name": _named(path), "url": ""}


def _listed() -> list[str]:
    return [name for name in folder_paths.get_filename_list("loras") if name.endswith(SUFFIX)]


def _listed_as(file: Path) -> str:
    for name in _listed():
        full = folder_paths.get_full_path("loras", name)
        if _parts(name)[-1] == file.name and full and os.path.realpath(full) == str(file):
            return name
    raise LoraUnreadable(f"{file.name} is no LoRA that ComfyUI lists. Use the address of a safetensors file.")


def _named(wanted: str) -> str:
    """The one listed file that is meant."""
    names = _listed()
    if wanted in names:
        return wanted
    parts = _parts(wanted.removesuffix(SUFFIX))
    by_parts = {name: _parts(name.removesuffix(SUFFIX)) for name in names}
    whole = [name for name, own in by_parts.items() if own == parts]
    found = whole or [name for name, own in by_parts.items() if own[-len(parts) :] == parts]
    if not whole and len(parts) == 1:
        found = list(dict.fromkeys([*found, *_newest_version(parts[0], by_parts)]))
    if len(found) == 1:
        return found[0]
    if not found:
        raise LoraUnreadable(
            f"There is no LoRA {shown(wanted)} here. Use a name as ComfyUI's LoRA loaders list it, or an https address."
        )
    more = f" and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
    raise LoraUnreadable(
        f"{shown(wanted)} fits several LoRAs: {', '.join(map(shown, found[:MAX_LISTED]))}{more}. Use one of these."
    )


def _newest_version(model: str, by_parts: dict[str, list[str]]) -> list[str]:
    versions = {}
    for name, own in by_parts.items():
        match = re.fullmatch(rf"{re.escape(model)}_([0-9]{{5,}})", own[-1])
        if match and own[:-1] == [MODELS_FOLDER]:
            versions[int(match[1])] = name
    return [versions[max(versions)]] if versions else []


def _parts(name: str) -> list[str]:
    return name.replace("\\", "/").split("/")


def set_loras(graph: Graph, loras: Sequence[dict[str, Any]]) -> None:
    """Put one loader in a row for each of `loras` (inputs but the model) in the place of those that are there."""
    old = {node_id: node for node_id, node in graph.items() if node["class_type"] == "Ideogram4LoadLoRA"}
    (source,) = (node["inputs"]["model"] for node in old.values() if node["inputs"]["model"][0] not in old)
    for node_id in old:
        del graph[node_id]
    link = source
    for number, lora in enumerate(loras, 1):
        graph[f"lora_{number}"] = {"class_type": "Ideogram4LoadLoRA", "inputs": {"model": link, "mode": "auto", **lora}}
        link = [f"lora_{number}", 0]
    for node_id, node in graph.items():
        if not node_id.startswith("lora_"):
            node["inputs"] = {
                key: link if isinstance(value, list) and value[0] in old else value
                for key, value in node["inputs"].items()
            }
