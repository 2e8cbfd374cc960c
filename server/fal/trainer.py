"""`ideogram/v4/trainer`: a zip of images becomes a LoRA, through the graph of the example "Train a LoRA from a zip".

Covered before anything is queued: every value; of a data URI the dataset itself, as the nodes would judge it; of a URL
where it leads. What a URL holds is judged by the nodes when its turn comes, with the same errors.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any, Literal

import folder_paths
import pydantic

from ...trainer_core.dataset import PRESETS, check_fit, open_dataset, resolve_resolution
from ...trainer_core.dataset.captions import MAX_CAPTION_BYTES
from ...trainer_core.dataset.resolution import check_resolution
from ...trainer_core.errors import SaveFailed, UserError
from ...trainer_core.remote import check_url, fetch
from ...trainer_core.storage import place_new_file
from ..api.access import Invalid
from ..api.base_models import ModelFiles, choose
from ..api.endpoints import Context, Endpoint, Job, Made, Outputs
from ..api.files import made_file
from ..api.graphs import inputs_of, load, node_of, set_models
from ..api.store import Record
from ..guard import Refusal
from .schema import File, ignored_fields

MAX_DATA_BYTES = 192 * 2**20
"""Of a zip in a data URI. A larger one belongs at an address."""
MAX_ADDRESS_LENGTH = MAX_DATA_BYTES * 4 // 3 + 1024
FOLDER = "fal"
"""Of zips that came as data URIs, in ComfyUI's input folder, where the dataset node lists them."""

FAULTS = {
    "missing_captions": "images_data_url",
    "no_images_found": "images_data_url",
    "image_too_small": "images_data_url",
    "image_unreadable": "images_data_url",
    "dataset_unreadable": "images_data_url",
    "url_refused": "images_data_url",
    "resolution_rejected": "resolution",
}


class TrainerInput(pydantic.BaseModel):
    """As fal's trainer takes it, and `models`."""

    model_config = pydantic.ConfigDict(extra="allow")

    images_data_url: str = pydantic.Field(
        description="An https address of a zip of images and captions, or the zip as a base64 data URI.",
        min_length=1,
        max_length=MAX_ADDRESS_LENGTH,
    )
    steps: int = pydantic.Field(1000, ge=100, le=40_000)
    learning_rate: float = pydantic.Field(1e-4, ge=1e-6, le=1e-2)
    resolution: str = pydantic.Field(
        "auto", max_length=100, description=f"auto, WIDTHxHEIGHT or one of {', '.join(PRESETS)}."
    )
    default_caption: str | None = pydantic.Field(
        None, max_length=MAX_CAPTION_BYTES, description="For images without a caption file."
    )
    force_default_caption: bool = pydantic.Field(False, description="Use the default caption for every image.")
    output_lora_format: Literal["fal", "comfy"] = "fal"
    models: ModelFiles | None = pydantic.Field(
        None, description="Not of fal's: model files to use, by the names that ComfyUI's loaders list."
    )


class TrainerOutput(pydantic.BaseModel):
    diffusers_lora_file: File
    config_file: File


async def build(values: TrainerInput, context: Context) -> Job:
    models = choose(values.models, context.settings, unconditional=False)
    graph = load("train_from_zip")
    set_models(graph, models)
    try:
        check_resolution(values.resolution)
        dataset, url = await asyncio.to_thread(_dataset, values)
    except SaveFailed as error:
        raise Refusal(507, error.code, "The dataset cannot be kept in ComfyUI's input folder.") from error
    except UserError as error:
        raise Invalid.field(FAULTS.get(error.code, "images_data_url"), error.code, str(error)) from error
    inputs_of(graph, "Ideogram4LoadDataset").update(
        dataset=dataset,
        url=url,
        default_caption=values.default_caption or "",
        force_default_caption=values.force_default_caption,
    )
    set_resolution(graph, values.resolution)
    run_name = f"fal_{context.request_id[:8]}"
    inputs_of(graph, "Ideogram4TrainLoRA").update(
        steps=values.steps, learning_rate=values.learning_rate, run_name=run_name
    )
    set_output(graph, f"loras/{FOLDER}/trainer_{context.request_id[:8]}", values.output_lora_format)
    return Job(graph, notes=ignored_fields(values), run_name=run_name)


def set_resolution(graph: dict[str, Any], resolution: str) -> None:
    """auto, a preset or WIDTHxHEIGHT, as the node has them."""
    choice = resolution.strip().lower()
    inputs = inputs_of(graph, "Ideogram4ResolveResolution")
    inputs["resolution"] = choice if choice in ("auto", *PRESETS) else "custom"
    if inputs["resolution"] == "custom":
        inputs["custom"] = resolution


def set_output(graph: dict[str, Any], prefix: str, layout: str) -> None:
    """Where the LoRA goes. The plot of the loss is for whoever looks at the graph, and is left out."""
    inputs_of(graph, "Ideogram4SaveLoRA").update(filename_prefix=prefix, output_lora_format=layout)
    del graph[node_of(graph, "LossGraphNode")]


def _dataset(values: TrainerInput) -> tuple[str, str]:
    """Name in the input folder and address, one of them "". Raises `UserError`."""
    address = values.images_data_url.strip()
    if address[:5].lower() != "data:":
        check_url(address)
        return "none", address
    data = fetch(address, max_bytes=MAX_DATA_BYTES)
    captions = {
        "default_caption": values.default_caption or "",
        "force_default_caption": values.force_default_caption,
    }
    dataset = open_dataset(data, name="the zip in images_data_url", **captions)
    size = resolve_resolution(dataset, values.resolution)
    check_fit(dataset, size.width, size.height)
    return keep_zip(data), ""


def keep_zip(data: bytes) -> str:
    """Put a zip into the input folder, once, and return its name there. Raises `SaveFailed`."""
    root = Path(folder_paths.get_input_directory())
    stem = hashlib.sha256(data).hexdigest()[:16]
    path = root / FOLDER / f"{stem}.zip"
    if not (path.is_file() and path.stat().st_size == len(data)):
        path = place_new_file(root / FOLDER, stem, ".zip", [data])
    return path.relative_to(root).as_posix()


def result(record: Record, outputs: Outputs) -> Made:
    saved = outputs.get(node_of(record.graph, "Ideogram4SaveLoRA"), {}).get("files", [])
    files = [made_file(file["subfolder"], file["filename"]) for file in saved]
    lora = next(index for index, file in enumerate(files) if file["filename"].endswith(".safetensors"))
    config = next(index for index, file in enumerate(files) if file["filename"].endswith(".json"))
    return Made(files, {"diffusers_lora_file": {"$file": lora}, "config_file": {"$file": config}})


TRAINER = Endpoint(
    path="ideogram/v4/trainer",
    summary="Train a LoRA",
    input=TrainerInput,
    output=TrainerOutput,
    build=build,
    result=result,
    faults=FAULTS,
)
