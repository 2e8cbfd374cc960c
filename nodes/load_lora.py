"""Node: apply a LoRA file of any known layout to an Ideogram 4 model."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..trainer_core.errors import LoraMismatch, LoraUnreadable, UserError
from ..trainer_core.lora_files import read_lora
from ..trainer_core.model import host
from ..trainer_core.model.apply import apply_lora, is_quantized
from ..trainer_core.paths import shown
from ..trainer_core.remote import fetch, shown_url
from .feedback import show_text
from .values import as_choice, as_number, as_text

MODES = ["auto", "bypass", "merge"]
MAX_STRENGTH = 10.0
MAX_DOWNLOAD_BYTES = 8 * 2**30
"""A LoRA of the highest rank in use has some GB in fp32."""
NOTHING = "none"


class Ideogram4LoadLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Ideogram4LoadLoRA",
            display_name="Ideogram 4 Load LoRA",
            category="model/training/ideogram 4",
            description="Apply an Ideogram 4 LoRA written by any trainer. Says how many layers matched, and refuses a "
            "file that does not fit.",
            search_aliases=["lora loader", "apply lora", "fal lora", "diffusers lora"],
            inputs=[
                io.Model.Input("model", tooltip="Ideogram 4 (the conditional model)."),
                io.Combo.Input(
                    "lora_name",
                    options=folder_paths.get_filename_list("loras") or [NOTHING],
                    tooltip="comfy, fal, diffusers, kohya and other spellings are read. Newly trained files appear "
                    "after a refresh (R).",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-MAX_STRENGTH,
                    max=MAX_STRENGTH,
                    step=0.05,
                    round=False,
                    tooltip="1 is the strength it was trained at; 0 leaves the model as it is.",
                ),
                io.Combo.Input(
                    "mode",
                    options=MODES,
                    default="auto",
                    tooltip="bypass adds the LoRA while the model runs, exactly; merge adds it to the weights, which "
                    "rounds on fp8, nvfp4 and int8 models. auto bypasses on those and merges on bf16.",
                ),
                io.String.Input(
                    "url",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="An https:// address of a safetensors file. When filled in, it is used instead of the LoRA "
                    "above. Downloaded once and not kept; change the address to fetch it again.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with the LoRA.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, lora_name: str | None = None, url: str | None = "") -> bool | str:
        # Naming `lora_name` here lifts the check against the list: with a url it does not matter what is chosen, and
        # a file that was trained a moment ago is accepted. A linked input is not known yet and comes as None.
        if url is None or url.strip() or lora_name is None:
            return True
        try:
            lora_path(lora_name)
        except UserError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None, url: str | None = "", **_: object) -> list[object]:
        # What a link brings is part of the graph's own signature.
        if url is None or url.strip() or lora_name is None:
            return [url]
        path = lora_path(lora_name)
        return [str(path), path.stat().st_size, path.stat().st_mtime_ns]

    @classmethod
    def execute(cls, model: Any, lora_name: str, strength: float, mode: str, url: str = "") -> io.NodeOutput:
        as_choice(mode, "mode", MODES)
        as_number(strength, "strength", -MAX_STRENGTH, MAX_STRENGTH)
        url = as_text(url, "url").strip()
        with lora_at(url) if url else contextlib.nullcontext(lora_path(lora_name)) as path:
            lora = read_lora(path)
            bypass = is_quantized(model) if mode == "auto" else mode == "bypass"
            applied = apply_lora(
                model, lora.modules, strength=strength, bypass=bypass, name=path.name if url else lora_name
            )
        count = len(lora.modules)
        show_text(
            cls, f"{count} of {count} modules matched ({lora.layout} keys), {'bypass' if bypass else 'merge'} mode."
        )
        return io.NodeOutput(applied)


@contextlib.contextmanager
def lora_at(url: str) -> Iterator[Path]:
    """The LoRA at an https address as a file, for as long as the block runs.

    What the block raises about the file names the address. Raises `RemoteRefused`.
    """
    temp = Path(folder_paths.get_temp_directory())
    temp.mkdir(parents=True, exist_ok=True)
    # What cannot be removed (a virus scanner holds it, say) is no reason to fail: ComfyUI empties this folder at its
    # next start.
    with tempfile.TemporaryDirectory(prefix="lora-", dir=temp, ignore_cleanup_errors=True) as folder:
        fetched = fetch(
            url,
            folder=Path(folder),
            max_bytes=MAX_DOWNLOAD_BYTES,
            what="lora",
            suffix=".safetensors",
            progress=lambda _received: host.raise_if_interrupted(),
        )
        path = Path(fetched).rename(Path(folder) / "downloaded.safetensors")
        try:
            yield path
        except (LoraUnreadable, LoraMismatch) as error:
            raise type(error)(f"{shown_url(url)}: {error}") from error


def lora_path(name: str) -> Path:
    """The file behind a combo value, looked up again. Raises `LoraUnreadable`."""
    listed = isinstance(name, str) and name in folder_paths.get_filename_list("loras")
    path = folder_paths.get_full_path("loras", name) if listed else None
    if path is None:
        raise LoraUnreadable(
            f"There is no LoRA {shown(str(name))} in ComfyUI's lora folders. Press R to refresh the list and pick one "
            "of it."
        )
    return Path(path)
