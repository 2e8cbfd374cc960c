"""The forms of what these routes take and answer. What is not Ideogram's own says so in its description."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import pydantic

from ...trainer_core.config import TrainSettings
from ...trainer_core.dataset.captions import MAX_CAPTION_BYTES
from ..api.base_models import ModelFiles
from ..api.files import File

MAX_NAME_LENGTH = 100
MODEL_NAME = r"^[A-Za-z0-9 -]+$"
RULES = {
    "name": f"Give a name of at most {MAX_NAME_LENGTH} characters.",
    "model_name": "Give a name of 5 to 30 characters: letters a to z, digits, spaces and hyphens.",
}
"""What is told of a field that is wrong, where a schema's own words would puzzle."""

ModelStatus = Literal["CREATING", "DRAFT", "TRAINING", "COMPLETED", "ERRORED", "ARCHIVED"]
STATUSES: tuple[str, ...] = get_args(ModelStatus)
SCOPES = ("owned", "shared")


# ---- datasets ------------------------------------------------------------------------------------------------


class CreateDataset(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    name: Annotated[
        str, pydantic.StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_NAME_LENGTH)
    ] = pydantic.Field(description="What the dataset is called. Two may have the same name.")


class Dataset(pydantic.BaseModel):
    dataset_id: str
    name: str
    user_id: str = pydantic.Field("local", description="There is one user here.")
    creation_time: str = pydantic.Field(description="ISO 8601, UTC.")
    folder: str = pydantic.Field(
        description="Ours: its folder in ComfyUI's input folder, as the dataset node lists it."
    )


class DatasetList(pydantic.BaseModel):
    datasets: list[Dataset]


class DatasetFile(pydantic.BaseModel):
    file_name: str
    file_size_bytes: int


class DatasetDetails(pydantic.BaseModel):
    dataset: Dataset
    file_count: int
    files: list[DatasetFile]


class AssetIdentifier(pydantic.BaseModel):
    asset_type: Literal["UPLOAD"] = "UPLOAD"
    asset_id: str


class SuccessfulAsset(pydantic.BaseModel):
    asset_identifier: AssetIdentifier
    file_name: str = pydantic.Field(description="In the dataset.")


class FailedAsset(pydantic.BaseModel):
    file_name: str = pydantic.Field(description="As it was sent; for a file of a zip with its folders.")
    failure_reason: str


class UploadSummary(pydantic.BaseModel):
    """Captions count where they fail, as files that were not taken; those that were taken are in `caption_count`."""

    total_count: int = pydantic.Field(description="success_count and failure_count.")
    success_count: int = pydantic.Field(description="Images that are in the dataset now.")
    failure_count: int = pydantic.Field(description="Files of all kinds that were not taken.")
    caption_count: int = pydantic.Field(description="Ours: captions that are in the dataset now.")
    successful_assets: list[SuccessfulAsset]
    failed_assets: list[FailedAsset]


# ---- models --------------------------------------------------------------------------------------------------


class TrainModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", protected_namespaces=())

    dataset_id: str = pydantic.Field(max_length=100)
    model_name: Annotated[
        str,
        pydantic.StringConstraints(strip_whitespace=True, min_length=5, max_length=30, pattern=MODEL_NAME),
    ] = pydantic.Field(description="Letters, digits, spaces and hyphens. A name that is taken makes a new version.")
    default_caption: str = pydantic.Field(
        "", max_length=MAX_CAPTION_BYTES, description="Ours: for images without a caption."
    )
    steps: int = pydantic.Field(TrainSettings().steps, ge=100, le=40_000, description="Ours.")
    resolution: str | None = pydantic.Field(
        None,
        max_length=100,
        description="Ours: auto, a preset or WIDTHxHEIGHT. Without it 1024x1024, or less where an image is smaller.",
    )
    models: ModelFiles | None = pydantic.Field(
        None, description="Ours: model files to use, by the names that ComfyUI's loaders list."
    )


class TrainingStarted(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(protected_namespaces=())

    model_id: str
    dataset_id: str
    training_status: ModelStatus
    model_name: str


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(protected_namespaces=())

    model_id: str
    name: str
    status: ModelStatus = pydantic.Field(
        description="CREATING while it waits in ComfyUI's queue, TRAINING, COMPLETED; ERRORED when it failed, was "
        "cancelled, or ComfyUI ended meanwhile."
    )
    creation_time: str = pydantic.Field(description="ISO 8601, UTC.")
    last_update_time: str = pydantic.Field(description="When the status changed.")
    is_available_for_generation: bool = pydantic.Field(description="COMPLETED, and its files are there.")
    is_owned: bool = True
    custom_model_uri: str = pydantic.Field(description="model/<name>/version/<number>.")
    dataset_id: str
    loras: list[str] = pydantic.Field(description="Ours: the files, as ComfyUI's LoRA loaders list them.")
    files: list[File] = pydantic.Field(description="Ours: the same, to be fetched with the key, and its config.json.")
    error: str | None = pydantic.Field(None, description="Ours: why it is ERRORED.")
    request_id: str = pydantic.Field(
        description="Ours: /fal/queue/ideogram/v4/requests/<request_id> has its log, cancels and resumes it."
    )


class TrainedFiles(pydantic.BaseModel):
    """What a model's request_id gives on fal's routes."""

    files: list[File]


class ModelList(pydantic.BaseModel):
    models: list[Model]


class ModelDetails(pydantic.BaseModel):
    model: Model
