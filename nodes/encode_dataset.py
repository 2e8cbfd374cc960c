"""Node: turn images and captions into training data, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
from comfy_api.latest import io

from ..trainer_core.dataset import Dataset
from ..trainer_core.model.cache import EncodingCache
from ..trainer_core.model.encode import TrainingData, encode_dataset
from ..trainer_core.model.latents import ideogram_statistics
from .feedback import show_text
from .types import DatasetSocket, TrainingDataSocket
from .values import as_choice

MOVE, AS_IS = "move with the crop", "as is"


class Ideogram4EncodeDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Ideogram4EncodeDataset",
            display_name="Ideogram 4 Encode Dataset",
            category="model/training/ideogram 4",
            description="Encode every image and caption once. Results stay on disk, so a second run starts at once.",
            search_aliases=["cache latents", "encode captions", "training data"],
            inputs=[
                DatasetSocket.Input("dataset", tooltip="The dataset to encode."),
                io.Int.Input("width", default=1024, min=16, max=2048, step=16, tooltip="Training width in pixels."),
                io.Int.Input("height", default=1024, min=16, max=1792, step=16, tooltip="Training height in pixels."),
                io.Vae.Input("vae", tooltip="The FLUX.2 VAE (flux2-vae.safetensors)."),
                io.Clip.Input("clip", tooltip="Qwen3-VL 8B from Load CLIP with type ideogram4."),
                io.Model.Input(
                    "model",
                    tooltip="The Ideogram 4 model that will be trained. Only its two text layers are used here.",
                ),
                io.Combo.Input(
                    "caption_boxes",
                    options=[MOVE, AS_IS],
                    default=MOVE,
                    optional=True,
                    advanced=True,
                    tooltip="Boxes in JSON captions are positions in the whole image. Moving them with the crop keeps "
                    "them true; choose as is when they were made for the cropped images.",
                ),
            ],
            outputs=[TrainingDataSocket.Output(display_name="training data", tooltip="Connect to the train node.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> str:
        # ComfyUI keeps this node's result, but the files that it names may have been deleted or damaged since.
        return EncodingCache(encoding_cache_folder()).renewal

    @classmethod
    def execute(
        cls, dataset: Dataset, width: int, height: int, vae: Any, clip: Any, model: Any, caption_boxes: str = MOVE
    ) -> io.NodeOutput:
        move_boxes = as_choice(caption_boxes, "caption_boxes", (MOVE, AS_IS)) == MOVE
        bar = comfy.utils.ProgressBar(2)

        def progress(done: int, total: int, what: str) -> None:
            # Images fill the first half, captions, of which there may be fewer, the second.
            bar.update_absolute(done if what == "image" else total + done, 2 * total)

        data = encode_dataset(
            dataset,
            width=width,
            height=height,
            vae=vae,
            clip=clip,
            patcher=model,
            cache_folder=encoding_cache_folder(),
            move_boxes=move_boxes,
            progress=progress,
        )
        show_text(cls, summary(data))
        return io.NodeOutput(data)


def encoding_cache_folder() -> Path:
    """A folder that the server's own file routes do not reach."""
    return Path(folder_paths.get_system_user_directory("ideogram4_lora_trainer")) / "encodings"


def summary(data: TrainingData) -> str:
    """What was encoded, and how far the VAE's statistics are from those that the model was trained with."""
    captions = len({item.text_key for item in data.items})
    return (
        f"{len(data.items)} images, {captions} captions, {data.width}x{data.height}\n"
        f"{data.newly_encoded} encoded now, the rest from the cache\n"
        f"This VAE's statistics against Ideogram's: {data.vae_statistics.difference_from(ideogram_statistics())}"
    )
