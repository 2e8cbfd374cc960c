"""Node: choose the training resolution for a dataset."""

from __future__ import annotations

from comfy_api.latest import io

from ..trainer_core.dataset import PRESETS, Dataset, check_fit, report, resolve_resolution
from .feedback import show_text
from .types import DatasetSocket
from .values import as_choice, as_text

CHOICES = ("auto", *PRESETS, "custom")


class Ideogram4ResolveResolution(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Ideogram4ResolveResolution",
            display_name="Ideogram 4 Training Resolution",
            category="model/training/ideogram 4",
            description="Choose the size that every image is scaled and cropped to. Images are never enlarged.",
            search_aliases=["lora resolution", "training size", "bucket"],
            inputs=[
                DatasetSocket.Input("dataset", tooltip="The dataset to choose a size for."),
                io.Combo.Input(
                    "resolution",
                    options=list(CHOICES),
                    default="auto",
                    tooltip="auto takes the smallest width and the smallest height of all images, rounded down to a "
                    "multiple of 16. Smaller sizes train faster and need less memory.",
                ),
                io.String.Input(
                    "custom",
                    default="1024x1024",
                    tooltip="WIDTHxHEIGHT for the choice custom: multiples of 16, up to 2048 wide and 1792 high.",
                ),
            ],
            outputs=[
                io.Int.Output(display_name="width", tooltip="Width in pixels."),
                io.Int.Output(display_name="height", tooltip="Height in pixels."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, dataset: Dataset, resolution: str, custom: str) -> io.NodeOutput:
        as_choice(resolution, "resolution", CHOICES)
        resolved = resolve_resolution(dataset, resolution, as_text(custom, "custom"))
        check_fit(dataset, resolved.width, resolved.height)
        show_text(cls, report(dataset, resolution=resolved))
        return io.NodeOutput(resolved.width, resolved.height)
