"""Node: open a dataset and report on it."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..trainer_core.config import TrainSettings
from ..trainer_core.dataset import open_dataset, open_url, report
from ..trainer_core.dataset.library import corrections_stamp, data_stamp, dataset_path, list_datasets
from ..trainer_core.errors import UserError
from ..trainer_core.model import host
from .feedback import show_text
from .types import DatasetSocket
from .values import as_text

NOTHING = "none"


class Ideogram4LoadDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Ideogram4LoadDataset",
            display_name="Ideogram 4 Load Dataset",
            category="model/training/ideogram 4",
            description="Open a zip or folder of images with captions. Nothing is unpacked.",
            search_aliases=["lora dataset", "zip dataset", "training images", "ideogram dataset"],
            inputs=[
                io.Combo.Input(
                    "dataset",
                    options=list_datasets(input_folder()) or [NOTHING],
                    tooltip="A zip of images, or a folder of them, in ComfyUI's input folder. Each image may have a "
                    ".txt caption of the same name beside it.",
                ),
                io.String.Input(
                    "default_caption",
                    default="",
                    multiline=True,
                    tooltip="Caption for images that have no .txt file. Leave empty to be told which images lack one.",
                ),
                io.Boolean.Input(
                    "force_default_caption",
                    default=False,
                    tooltip="Use the default caption for every image, even where there is a .txt file.",
                ),
                io.String.Input(
                    "url",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="An https:// address of a zip, or a base64 data: URI. When filled in, it is used instead "
                    "of the dataset above. Downloaded once; change the address to fetch it again.",
                ),
            ],
            outputs=[
                DatasetSocket.Output(display_name="dataset", tooltip="The checked images and captions."),
                io.String.Output(display_name="report", tooltip="What was found, what was skipped and why."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, dataset: str | None, url: str | None = "") -> bool | str:
        # Naming `dataset` here lifts the check against the list, so that a file uploaded a moment ago is accepted.
        # A linked input is not known yet and comes as None.
        if url is None or url.strip() or dataset is None:
            return True
        try:
            chosen_path(dataset)
        except UserError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, dataset: str | None, url: str | None = "", **_: object) -> list[object]:
        # What a link brings is part of the graph's own signature.
        if url is None or url.strip() or dataset is None:
            return [url]
        path = chosen_path(dataset)
        return [*data_stamp(path), *corrections_stamp(path)]

    @classmethod
    def execute(cls, dataset: str, default_caption: str, force_default_caption: bool, url: str = "") -> io.NodeOutput:
        url = as_text(url, "url").strip()
        as_text(default_caption, "default_caption")
        captions = {"default_caption": default_caption, "force_default_caption": force_default_caption}
        if url:
            # ComfyUI's temp folder is emptied at its next start, should a download be left there.
            folder = Path(folder_paths.get_temp_directory())
            folder.mkdir(parents=True, exist_ok=True)
            opened = open_url(url, folder=folder, progress=lambda _received: host.raise_if_interrupted(), **captions)
        else:
            opened = open_dataset(chosen_path(dataset), name=dataset, **captions)
        text = report(opened, steps=TrainSettings().steps)
        if url:
            show_text(cls, text)
            return io.NodeOutput(opened, text)
        # For the panel on the node, which shows all this: the dataset was read, and may be another one than it shows.
        return io.NodeOutput(opened, text, ui={"ideogram4_dataset": [dataset]})


def input_folder() -> Path:
    return Path(folder_paths.get_input_directory())


def chosen_path(name: str) -> Path:
    """The zip or folder behind a combo value, checked again. Raises `UserError`."""
    return dataset_path(input_folder(), "" if as_text(name, "dataset") == NOTHING else name)
