"""A dataset of the library becomes a model, through the graph of the example "Train a LoRA from a zip".

Judged before anything is queued: how many images there are, their sizes, captions, the resolution, the model files.
"""

from __future__ import annotations

import asyncio

from ...trainer_core.dataset import check_fit, open_dataset, resolve_resolution
from ...trainer_core.dataset.listing import sort_files
from ...trainer_core.dataset.messages import name_some
from ...trainer_core.dataset.resolution import SIDE_MULTIPLE
from ..api.base_models import choose
from ..api.endpoints import Context, Endpoint, Job, Made, Outputs
from ..api.files import made_file
from ..api.graphs import inputs_of, load, node_of, set_models, set_output, set_resolution
from ..api.store import Record
from ..guard import Refusal
from .library import Entry, Library, list_files
from .schema import TrainedFiles, TrainModel

MIN_IMAGES = 15
USUAL_SIDE = 1024
"""Pixels that are trained where every image has them, as in the example."""
FOLDER = "ideogram"
"""Of the models, in output/loras."""
PATH = "ideogram/train-model"


def endpoint(library: Library) -> Endpoint:
    """What the desk needs to know to train from a dataset of `library`."""

    async def build(values: TrainModel, context: Context) -> Job:
        entry, resolution = await asyncio.to_thread(_judge, library, values, context.settings.max_images)
        graph = load("train_from_zip")
        set_models(graph, choose(values.models, context.settings, unconditional=False))
        inputs_of(graph, "Ideogram4LoadDataset").update(dataset=entry.folder, default_caption=values.default_caption)
        set_resolution(graph, resolution)
        # A name of its own: the same dataset trained again is a new run, and not the result that ComfyUI remembers.
        run_name = f"{values.model_name} {context.request_id[:8]}"
        inputs_of(graph, "Ideogram4TrainLoRA").update(steps=values.steps, run_name=run_name)
        set_output(graph, f"loras/{FOLDER}/{values.model_name}", "comfy + fal")
        return Job(graph, run_name=run_name)

    return Endpoint(
        path=PATH,
        summary="Train a model on a dataset of the library",
        input=TrainModel,
        output=TrainedFiles,
        build=build,
        result=_result,
        is_kept=True,
    )


def _judge(library: Library, values: TrainModel, max_images: int) -> tuple[Entry, str]:
    """The dataset, and WIDTHxHEIGHT to train at. Raises `Refusal` and `UserError`."""
    entry, path = library.find(values.dataset_id)
    count = len(sort_files(list_files(path, entry.name).files).images)
    if not MIN_IMAGES <= count <= max_images:
        fault = f"{MIN_IMAGES} are needed at least" if count < MIN_IMAGES else f"{max_images:,} are the most"
        advice = "Upload more" if count < MIN_IMAGES else f"Take some out of input/{entry.folder}"
        raise Refusal(400, "image_count", f"The dataset has {count:,} images, and {fault}. {advice}.")
    dataset = open_dataset(path, name=entry.name, default_caption=values.default_caption, require_captions=False)
    bare = [item.name for item in dataset.items if item.caption_source == "missing"]
    if bare:
        raise Refusal(
            400,
            "missing_captions",
            f"{len(bare)} of {count} images have no caption: {name_some(bare)}. Captions are not written by this "
            "server: upload a .txt of the same name for each, or give default_caption.",
        )
    resolution = values.resolution
    if resolution is None:
        sides = (min(item.width for item in dataset.items), min(item.height for item in dataset.items))
        width, height = (min(USUAL_SIDE, side) // SIDE_MULTIPLE * SIDE_MULTIPLE for side in sides)
        resolution = f"{width}x{height}"
    size = resolve_resolution(dataset, resolution)
    check_fit(dataset, size.width, size.height)
    return entry, resolution


def _result(record: Record, outputs: Outputs) -> Made:
    saved = outputs.get(node_of(record.graph, "Ideogram4SaveLoRA"), {}).get("files", [])
    files = [made_file(file["subfolder"], file["filename"]) for file in saved]
    return Made(files, {"files": [{"$file": index} for index in range(len(files))]})


TRAIN = endpoint(Library())
