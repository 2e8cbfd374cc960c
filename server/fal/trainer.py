"""`ideogram/v4/trainer`: a zip of images becomes a LoRA, through the graph of the example "Train a LoRA from a zip".

Covered before anything is queued: every value; of a data URI the dataset itself, as the nodes would judge it; of a URL
where it leads. What a URL holds is judged by the nodes when its turn comes, with the same errors.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import pydantic

from ...trainer_core.dataset import PRESETS, check_fit, open_dataset, resolve_resolution
from ...trainer_core.dataset.captions import MAX_CAPTION_BYTES
from ...trainer_core.dataset.resolution import check_resolution
from ...trainer_core.errors import SaveFailed, UserError
from ...trainer_core.remote import check_url, fetch
from ..api.access import Invalid
from ..api.base_models import ModelFiles, choose
from ..api.endpoints import Context, Endpoint, Job, Made, Outputs
from ..api.files import File, FileMissing, made_file
from ..api.graphs import inputs_of, load, node_of, set_models, set_output, set_resolution
from ..api.inputs import keep_input
from ..api.store import Record
from ..api.threads import outside
from ..guard import Refusal
from .schema import ignored_fields

MAX_DATA_BYTES = 192 * 2**20
"""Of a zip in a data URI. A larger one belongs at an address."""
MAX_ADDRESS_LENGTH = MAX_DATA_BYTES * 4 // 3 + 1024
FOLDER = "fal"
"""Of LoRAs, in output/loras."""

_judging = asyncio.Semaphore(1)  # a data URI takes several times its size while it is judged

FAULTS = {
    "missing_captions": "images_data_url",
    "no_images_found": "images_data_url",
    "image_too_small": "images_data_url",
    "image_unreadable": "images_data_url",
    "dataset_unreadable": "images_data_url",
    "url_refused": "images_data_url",
    "does_not_fit": "resolution",
    "wrong_model": "models",
    "wrong_vae": "models",
    "wrong_text_encoder": "models",
    "resolution_rejected": "resolution",
    "settings_rejected": "default_caption",
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
        dataset, url = await _dataset(values)
    except SaveFailed as error:
        raise Refusal(507, error.code, "The dataset cannot be kept in ComfyUI's input folder.") from error
    except UserError as error:
        advice = " Or send the zip as a data URI." if error.code == "url_refused" else ""
        raise Invalid.field(FAULTS.get(error.code, "images_data_url"), error.code, f"{error}{advice}") from error
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


async def _dataset(values: TrainerInput) -> tuple[str, str]:
    """Name in the input folder and address, the one that there is not "none" or "". Raises `UserError`."""
    address = values.images_data_url.strip()
    if address[:5].lower() != "data:":
        await outside(check_url, address)
        return "none", address
    async with _judging:
        return await asyncio.to_thread(_kept_dataset, address, values), ""


def _kept_dataset(address: str, values: TrainerInput) -> str:
    """The dataset in a data URI, judged and put into the input folder; its name there. Raises `UserError`."""
    data = fetch(address, max_bytes=MAX_DATA_BYTES)
    captions = {
        "default_caption": values.default_caption or "",
        "force_default_caption": values.force_default_caption,
    }
    dataset = open_dataset(data, name="the zip in images_data_url", **captions)
    size = resolve_resolution(dataset, values.resolution)
    check_fit(dataset, size.width, size.height)
    return keep_input(data, ".zip")


def result(record: Record, outputs: Outputs) -> Made:
    saved = outputs.get(node_of(record.graph, "Ideogram4SaveLoRA"), {}).get("files", [])
    files = [made_file(file["subfolder"], file["filename"]) for file in saved]
    by_kind = {Path(file["filename"]).suffix: index for index, file in enumerate(files)}
    if not {".safetensors", ".json"} <= by_kind.keys():
        raise FileMissing("ComfyUI does not say where the LoRA was saved.")
    lora, config = by_kind[".safetensors"], by_kind[".json"]
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
