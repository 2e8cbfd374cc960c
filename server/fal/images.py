"""`ideogram/v4/lora` and `ideogram/v4/image-to-image/lora`: pictures with what was trained, through the graphs of the
examples "Text to image with a LoRA" and "Image to image with LoRAs".

Covered before anything is queued: every value, the LoRA files' names and addresses, the image. What a LoRA's address
holds is judged by the loader when its turn comes, with the same errors.
"""

from __future__ import annotations

import secrets
from typing import Any, Literal

import pydantic

from ...trainer_core.errors import SaveFailed, UserError
from ...trainer_core.model.sampling import PRESETS
from ..api.access import Invalid
from ..api.base_models import ModelFiles, choose
from ..api.endpoints import Context, Endpoint, Job, Made, Outputs
from ..api.files import File, FileMissing, made_file
from ..api.graphs import Graph, inputs_of, load, node_of, set_models
from ..api.store import Record
from ..api.threads import outside
from ..guard import Refusal
from .jpeg import jpeg_of
from .loras import MAX_LORAS, LoraWeight, find_lora, set_loras
from .schema import ignored_fields
from .sizes import ImageSize, Size, SizeName, schedule, size_like, size_of
from .source_image import MAX_ADDRESS_LENGTH, SourceImage, source_image

FOLDER = "fal"
"""Of the pictures, in ComfyUI's output folder."""
MAX_PROMPT_LENGTH = 20_000
MAX_SEED = 2**63 - 1
RANDOM_SEEDS = 2**32
SPEEDS = {"TURBO": PRESETS["turbo"], "BALANCED": PRESETS["default"], "QUALITY": PRESETS["quality"]}
FAULTS = {
    "lora_unreadable": "loras",
    "lora_mismatch": "loras",
    "url_refused": "loras",
    "wrong_model": "models",
    "wrong_vae": "models",
    "wrong_text_encoder": "models",
}
"""What is found out when its turn comes."""


class TextToImageInput(pydantic.BaseModel):
    """As fal takes it, and `models`."""

    model_config = pydantic.ConfigDict(extra="allow")

    prompt: str = pydantic.Field(min_length=1, max_length=MAX_PROMPT_LENGTH)
    loras: list[LoraWeight] = pydantic.Field([], max_length=MAX_LORAS, description="They add up.")
    image_size: SizeName | ImageSize = "square_hd"
    rendering_speed: Literal["TURBO", "BALANCED", "QUALITY"] = pydantic.Field(
        "BALANCED", description=", ".join(f"{name}: {preset.steps} steps" for name, preset in SPEEDS.items())
    )
    expansion_model: Literal["None", "Medium", "Large"] = pydantic.Field(
        "Medium", description="How the text encoder makes the prompt into a JSON caption; None uses it as it is."
    )
    num_images: int = pydantic.Field(1, ge=1, le=4, description="Their seeds are seed, seed + 1 and so on.")
    seed: int | None = pydantic.Field(None, ge=0, le=MAX_SEED, description="A random one without it.")
    output_format: Literal["jpeg", "png"] = pydantic.Field(
        "jpeg",
        description="A JPEG is made of the PNG that ComfyUI saves, which stays beside it in the output folder, with "
        "the graph in it.",
    )
    sync_mode: bool = pydantic.Field(
        False, description="The answer holds the images as data URIs. They are in the output folder too."
    )
    enable_safety_checker: bool = pydantic.Field(True, description="Without effect: none runs here.")
    acceleration: Literal["none", "low", "regular", "high"] = pydantic.Field("none", description="Without effect here.")
    models: ModelFiles | None = pydantic.Field(
        None, description="Not of fal's: model files to use, by the names that ComfyUI's loaders list."
    )


class ImageToImageInput(TextToImageInput):
    """As fal takes it, and `models`."""

    image_url: str = pydantic.Field(
        description="An https address of a PNG, JPEG or WebP, the image as a base64 data URI, or the address of one "
        "that this server has made.",
        min_length=1,
        max_length=MAX_ADDRESS_LENGTH,
    )
    strength: float = pydantic.Field(
        0.8, ge=0, le=1, description="How much of the steps is done anew: 0 keeps the image, 1 ignores it."
    )
    image_size: Literal["auto"] | SizeName | ImageSize = pydantic.Field(  # type: ignore[assignment]
        "auto", description="auto: that of the image, and at most 2048 a side. The image is cropped to other shapes."
    )


class Image(File):
    width: int
    height: int


class ImagesOutput(pydantic.BaseModel):
    images: list[Image]
    timings: dict[str, float] = pydantic.Field(description="inference: seconds.")
    seed: int = pydantic.Field(description="Of the first image.")
    has_nsfw_concepts: list[bool] | None = pydantic.Field(description="null: no checker runs here.")
    prompt: str = pydantic.Field(description="The one that was used.")


async def build(values: TextToImageInput, context: Context) -> Job:
    models = choose(values.models, context.settings, unconditional=True)
    loras = await outside(_loras, values, context)
    source = await _source(values, context) if isinstance(values, ImageToImageInput) else None
    size = _size(values, source)
    seed = secrets.randbelow(RANDOM_SEEDS) if values.seed is None else values.seed
    strength = values.strength if isinstance(values, ImageToImageInput) else 1.0

    # At full strength the example would let through a trace of the image, as the noise begins just below 1.
    graph = load("text_to_image" if source is None or strength == 1 else "image_to_image")
    set_models(graph, models)
    set_loras(graph, loras)
    prompt_node = _set_prompt(graph, values, seed, size)
    inputs_of(graph, "Ideogram4Scheduler").update(schedule(SPEEDS[values.rendering_speed], size))
    if source is None or strength == 1:
        inputs_of(graph, "EmptyFlux2LatentImage").update(width=size[0], height=size[1])
    else:
        inputs_of(graph, "LoadImage")["image"] = source.name
        inputs_of(graph, "ImageScale").update(width=size[0], height=size[1])
        inputs_of(graph, "SplitSigmasDenoise")["denoise"] = strength
    save_nodes = _set_images(graph, values.num_images, seed, f"{FOLDER}/{context.request_id}")
    kept = {
        "seed": seed,
        "prompt": values.prompt,
        "size": list(size),
        "output_format": values.output_format,
        "sync_mode": values.sync_mode,
        "prompt_node": prompt_node,
        "save_nodes": save_nodes,
    }
    return Job(graph, notes=[*ignored_fields(values), *_notes(values)], values=kept)


def _loras(values: TextToImageInput, context: Context) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for index, lora in enumerate(values.loras):
        try:
            found.append({**find_lora(lora.path, context.store), "strength": lora.scale})
        except UserError as error:
            raise Invalid.field(["loras", index, "path"], error.code, str(error)) from error
    return found


async def _source(values: ImageToImageInput, context: Context) -> SourceImage:
    try:
        return await source_image(values.image_url, context.store, is_used=values.strength < 1)
    except SaveFailed as error:
        raise Refusal(507, error.code, "The image cannot be kept in ComfyUI's input folder.") from error
    except UserError as error:
        raise Invalid.field("image_url", error.code, str(error)) from error


def _size(values: TextToImageInput, source: SourceImage | None) -> Size:
    if source is None or values.image_size != "auto":
        return size_of(values.image_size)
    try:
        return size_like(source.width, source.height)
    except UserError as error:
        raise Invalid.field("image_url", error.code, str(error)) from error


def _notes(values: TextToImageInput) -> list[str]:
    """What is asked for and cannot be had."""
    notes = []
    if values.enable_safety_checker and "enable_safety_checker" in values.model_fields_set:
        notes.append("No safety checker runs here, and has_nsfw_concepts is null.")
    if values.acceleration != "none":
        notes.append(f"acceleration {values.acceleration!r} has no effect here.")
    if isinstance(values, ImageToImageInput):
        if values.strength == 1:
            notes.append("At strength 1 the image is ignored.")
        elif round(SPEEDS[values.rendering_speed].steps * values.strength) == 0:
            notes.append(
                f"At strength {values.strength:g} no step of {values.rendering_speed} is left: the image only goes "
                "through the VAE."
            )
    return notes


# ---- the graph -----------------------------------------------------------------------------------------------


def _set_prompt(graph: Graph, values: TextToImageInput, seed: int, size: Size) -> str:
    """Let the prompt be expanded, or passed on by the same node, so that history tells which was used."""
    node_id = node_of(graph, "PrimitiveStringMultiline")
    expansion = values.expansion_model.lower()
    graph[node_id] = {
        "class_type": "Ideogram4ExpandPrompt",
        "inputs": {
            "clip": inputs_of(graph, "CLIPTextEncode")["clip"],
            "prompt": values.prompt,
            "expansion": expansion,
            # Another seed would let ComfyUI encode the same prompt again.
            "seed": 0 if expansion == "none" else seed,
            "width": size[0],
            "height": size[1],
        },
    }
    return node_id


def _set_images(graph: Graph, count: int, seed: int, prefix: str) -> list[str]:
    """Let `count` pictures be made, each from noise of its own; returns the nodes that save them, in order.

    One after the other, because a batch would need the memory of all at once. What comes before the noise is shared.
    """
    noise, save = node_of(graph, "RandomNoise"), node_of(graph, "SaveImage")
    chain = _fed_by(graph, noise)
    template = {node_id: graph[node_id] for node_id in chain}
    for number in range(1, count + 1):
        new_ids = {node_id: node_id if number == 1 else f"{node_id}_{number}" for node_id in chain}
        for node_id, node in template.items():
            inputs = {
                key: [new_ids.get(value[0], value[0]), value[1]] if isinstance(value, list) else value
                for key, value in node["inputs"].items()
            }
            graph[new_ids[node_id]] = {**node, "inputs": inputs}
        graph[new_ids[noise]]["inputs"]["noise_seed"] = seed + number - 1
        graph[new_ids[save]]["inputs"]["filename_prefix"] = f"{prefix}_{number}"
    return [save if number == 1 else f"{save}_{number}" for number in range(1, count + 1)]


def _fed_by(graph: Graph, first: str) -> set[str]:
    """`first` and every node that takes something of it, also by way of others."""
    found, waiting = set(), {first}
    while waiting:
        found |= waiting
        waiting = {
            node_id
            for node_id, node in graph.items()
            if any(isinstance(value, list) and value[0] in waiting for value in node["inputs"].values())
        } - found
    return found


# ---- the answer ----------------------------------------------------------------------------------------------


def result(record: Record, outputs: Outputs) -> Made:
    values = record.values
    files = []
    for node_id in values["save_nodes"]:
        (saved,) = outputs.get(node_id, {}).get("images", [])[:1] or [None]
        if saved is None:
            raise FileMissing("ComfyUI does not say where a picture was saved.")
        png = made_file(saved["subfolder"], saved["filename"])
        files.append(png if values["output_format"] == "png" else jpeg_of(png))
    (told,) = outputs.get(values["prompt_node"], {}).get("ideogram4_prompt", [])[:1] or [{}]
    place = "$data" if values["sync_mode"] else "$file"
    width, height = values["size"]
    payload = {
        "images": [{place: index, "width": width, "height": height} for index in range(len(files))],
        "timings": {"inference": round(max(0.0, record.ended - record.started), 3)},
        "seed": values["seed"],
        "has_nsfw_concepts": None,
        "prompt": told.get("text", values["prompt"]),
    }
    return Made(files, payload, notes=[told["note"]] if told.get("note") else [])


TEXT_TO_IMAGE = Endpoint(
    path="ideogram/v4/lora",
    summary="Make images with LoRAs",
    input=TextToImageInput,
    output=ImagesOutput,
    build=build,
    result=result,
    faults=FAULTS,
)
IMAGE_TO_IMAGE = Endpoint(
    path="ideogram/v4/image-to-image/lora",
    summary="Make images of an image, with LoRAs",
    input=ImageToImageInput,
    output=ImagesOutput,
    build=build,
    result=result,
    faults=FAULTS,
)
