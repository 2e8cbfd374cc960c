"""What Ideogram's routes refuse to train before anything is queued, and how they tell of models."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folder_paths
import pytest
from datasets import picture
from ideogram4_lora_trainer.server.api.base_models import FOLDERS, STANDARD
from ideogram4_lora_trainer.server.api.endpoints import Context
from ideogram4_lora_trainer.server.api.graphs import inputs_of, load
from ideogram4_lora_trainer.server.api.settings import ApiSettings, api_folder
from ideogram4_lora_trainer.server.api.store import Record, Store
from ideogram4_lora_trainer.server.ideogram.models import Models, told
from ideogram4_lora_trainer.server.ideogram.routes import ROUTES
from ideogram4_lora_trainer.server.ideogram.schema import TrainModel
from ideogram4_lora_trainer.server.ideogram.training import TRAIN
from ideogram_client import IdeogramClient, captioned, ideogram_served

FOLDERS_OF = {folder: kind for kind, folder in FOLDERS.items() if kind != "unconditional"}
V3, V4 = "/v1/ideogram-v3/train-model", "/v1/ideogram-v4/train-model"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[IdeogramClient]:
    """Nothing is queued, and no model noted, by what is refused."""
    with ideogram_served(tmp_path) as client:
        yield client
        assert client.get("/models").json() == {"models": []}
        assert not list((api_folder() / "requests").glob("*"))


@pytest.fixture
def dataset(client: IdeogramClient) -> dict[str, Any]:
    dataset = client.create()
    client.upload(dataset, *captioned(15))
    return dataset


def refused(client: IdeogramClient, dataset: dict[str, Any], status: int = 400, **values: Any) -> str:
    values = {"dataset_id": dataset["dataset_id"], "model_name": "my model", **values}
    answers = [client.post(path, values) for path in (V3, V4)]
    assert [answer.status_code for answer in answers] == [status, status], answers[0].text
    assert answers[0].json() == answers[1].json()
    assert answers[0].json().keys() == {"detail", "error_type"}
    return answers[0].json()["detail"]


def test_too_few_and_too_many_images(client: IdeogramClient) -> None:
    dataset = client.create()
    assert "0 images" in refused(client, dataset)
    client.upload(dataset, *captioned(14))
    assert "14 images, and 15 are needed" in refused(client, dataset)
    client.upload(dataset, *captioned(16))
    (api_folder() / "settings.json").write_text('{"max_images": 15}')
    assert "15 are the most" in refused(client, dataset)


def test_images_without_a_caption_are_named(client: IdeogramClient, dataset: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "input" / dataset["folder"] / "07.txt").unlink()
    (tmp_path / "input" / dataset["folder"] / "09.txt").write_text(" \n")
    words = refused(client, dataset)
    assert "2 of 15 images" in words
    assert "07.png, 09.png" in words
    assert "default_caption" in words
    assert "caption" not in refused(client, dataset, default_caption="a disc")  # goes on to the model files


def test_images_smaller_than_the_resolution(client: IdeogramClient, dataset: dict[str, Any]) -> None:
    client.upload(dataset, ("small.png", picture(0, (40, 40))), ("small.txt", b"small"))
    words = refused(client, dataset, resolution="64x64")
    assert "small.png (40x40)" in words
    assert "too small" not in refused(client, dataset)  # without one, what all images allow
    assert "multiples of 16" in refused(client, dataset, resolution="30x30")
    assert "no resolution" in refused(client, dataset, resolution="large")


def test_an_image_that_was_damaged_by_hand(client: IdeogramClient, dataset: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "input" / dataset["folder"] / "07.png").write_bytes(b"no image")
    words = refused(client, dataset)
    assert "07.png" in words
    assert str(tmp_path) not in words


def test_model_files_that_are_not_there(
    client: IdeogramClient, dataset: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_paths, "get_filename_list", lambda _: [])
    assert "models.diffusion_model" in refused(client, dataset)
    words = refused(client, dataset, models={"diffusion_model": "../../etc/passwd"})
    assert words.startswith("models.diffusion_model: ")
    assert "ComfyUI has no file" in words


@pytest.mark.parametrize(
    "name",
    ["", "four", "x" * 31, "a/b/c", "../../x", "name.safetensors", "name_1", "naïve", "a\nbcd", "    a    ", 12345],
)
def test_model_names(client: IdeogramClient, dataset: dict[str, Any], name: object) -> None:
    assert refused(client, dataset, model_name=name).startswith("model_name: ")


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 99},
        {"steps": 40_001},
        {"steps": "many"},
        {"step": 100},
        {"dataset_id": 5},
        {"default_caption": "x" * 70_000},
        {"models": "mine"},
        {"models": {"lora": "x"}},
        {"resolution": "1" * 101},
    ],
)
def test_values_out_of_range(client: IdeogramClient, dataset: dict[str, Any], values: dict[str, Any]) -> None:
    assert next(iter(values)) in refused(client, dataset, **values)


@pytest.mark.parametrize("dataset_id", ["x" * 22, "", "../..", "a/b"])
def test_datasets_that_are_none(client: IdeogramClient, dataset: dict[str, Any], dataset_id: str) -> None:
    refused(client, dataset, status=404, dataset_id=dataset_id)


def test_bodies_that_are_none(client: IdeogramClient) -> None:
    for body, kind, status in (
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b'"' + b"x" * 2**20 + b'"', "application/json", 413),
        (b"[" * 100_000, "application/json", 400),
        (b'{"model_name": "\\ud800\\ud800\\ud800\\ud800\\ud800", "dataset_id": "x"}', "application/json", 400),
    ):
        answer = client.ask("POST", V3, data=body, headers={"Content-Type": kind})
        assert answer.status_code == status, body[:50]


def test_models_are_asked_for_by_status_and_scope(client: IdeogramClient) -> None:
    for query in ("status=COMPLETED", "status=TRAINING&status=CREATING", "scope=shared", "scope=owned"):
        assert client.get(f"/models?{query}").json() == {"models": []}
    for query in ("status=done", "status=", "scope=all", "status=COMPLETED&status=x"):
        assert client.get(f"/models?{query}").status_code == 400
    assert client.get(f"/models/{'x' * 22}").status_code == 404


def test_what_is_queued_is_the_example_and_never_what_comfyui_remembers(
    client: IdeogramClient, dataset: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_paths, "get_filename_list", lambda folder: STANDARD[FOLDERS_OF[folder]])
    values = TrainModel(dataset_id=dataset["dataset_id"], model_name=" my model ", default_caption="a disc")
    store = Store(tmp_path / "user" / "elsewhere")
    jobs = [asyncio.run(TRAIN.build(values, Context(str(uuid.uuid4()), "", ApiSettings(), store))) for _ in range(2)]
    graph, again = (job.graph for job in jobs)
    assert inputs_of(graph, "Ideogram4LoadDataset")["dataset"] == dataset["folder"]
    assert inputs_of(graph, "Ideogram4LoadDataset")["default_caption"] == "a disc"
    assert inputs_of(graph, "Ideogram4ResolveResolution")["custom"] == "64x64"  # of images of 72x68
    assert inputs_of(graph, "Ideogram4SaveLoRA")["filename_prefix"] == "loras/ideogram/my model"
    example = inputs_of(load("train_from_zip"), "Ideogram4TrainLoRA")
    trained, trained_again = (inputs_of(one, "Ideogram4TrainLoRA") for one in (graph, again))
    assert {**trained, "run_name": ""} == {**trained_again, "run_name": ""} == {**example, "run_name": ""}
    assert trained["run_name"] == jobs[0].run_name != trained_again["run_name"]


# ---- how a model is told -------------------------------------------------------------------------------------


def a_record(state: str, **values: Any) -> Record:
    return Record(id="r", endpoint="ideogram/train-model", graph={}, base="", state=state, created=1.0, **values)


def test_a_model_tells_what_its_request_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    models = Models(lambda: tmp_path / "models")
    entry = models.create("My model", "d" * 22, "r")
    statuses = {state: told(entry, a_record(state)).status for state in ("queued", "running", "failed", "interrupted")}
    assert statuses == {"queued": "CREATING", "running": "TRAINING", "failed": "ERRORED", "interrupted": "ERRORED"}
    assert told(entry, a_record("queued"), running=True).status == "TRAINING"
    words = {"code": "out_of_memory", "message": "Too large."}
    assert told(entry, a_record("failed", error=words)).error == "Too large."
    assert all(told(entry, a_record(state)).error for state in ("failed", "cancelled", "interrupted"))
    assert told(entry, None).status == "ERRORED"
    assert told(entry, a_record("running")).error is None

    folder = tmp_path / "output" / "loras" / "ideogram"
    folder.mkdir(parents=True)
    names = ["My model_00001.safetensors", "My model_00001_fal.safetensors", "My model_00001_config.json"]
    about = {"subfolder": "loras/ideogram", "content_type": "application/octet-stream", "bytes": 0}
    files = tuple({**about, "filename": name} for name in names)
    for name in names:
        (folder / name).touch()
    done = told(entry, a_record("succeeded", files=files, ended=time.time() + 60))
    assert (done.status, done.is_available_for_generation) == ("COMPLETED", True)
    assert [Path(name).as_posix() for name in done.loras] == [f"ideogram/{name}" for name in names[:2]]
    assert [file.file_name for file in done.files] == names
    assert done.last_update_time > done.creation_time
    for path in folder.iterdir():
        path.unlink()
    gone = told(entry, a_record("succeeded", files=files))
    assert (gone.status, gone.is_available_for_generation, gone.loras) == ("COMPLETED", False, [])


def test_a_name_that_is_taken_is_a_new_version(tmp_path: Path) -> None:
    models = Models(lambda: tmp_path / "models")
    made = [models.create(name, "d" * 22, "r") for name in ("My model", "Other", "my-model", "My model")]
    assert [(entry.slug, entry.version) for entry in made] == [
        ("my-model", 1),
        ("other", 1),
        ("my-model", 2),
        ("my-model", 3),
    ]
    assert {entry.id for entry in models.all()} == {entry.id for entry in made}
    assert models.find(made[2].id) == made[2]
    (tmp_path / "models" / f"{made[0].id}.json").write_text(json.dumps({"id": made[0].id, "name": 5}))
    assert len(models.all()) == 3


def test_every_route_has_a_form_that_describes_itself() -> None:
    for route in ROUTES:
        for form in (route.answer, route.body):
            assert form is None or form.model_json_schema()["properties"]
        assert {200, 401, 403} <= set(route.statuses)
