"""The library of datasets on Ideogram's routes: plain folders that the dataset node lists, filled in several calls."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from dataset_forge import png, zip_of
from datasets import picture
from ideogram4_lora_trainer.server.ideogram import intake
from ideogram4_lora_trainer.trainer_core.dataset import open_dataset
from ideogram4_lora_trainer.trainer_core.dataset.library import list_datasets
from ideogram_client import IdeogramClient, captioned, ideogram_served, reasons


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "input"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[IdeogramClient]:
    with ideogram_served(tmp_path) as client:
        yield client


# ---- the library ---------------------------------------------------------------------------------------------


def test_an_empty_library_then_two_datasets_of_one_name(client: IdeogramClient, root: Path) -> None:
    assert client.get("/datasets").json() == {"datasets": []}
    first, second = client.create("Pets"), client.create("Pets")
    assert first["dataset_id"] != second["dataset_id"]
    assert [first["name"], second["name"]] == ["Pets", "Pets"]
    assert [first["folder"], second["folder"]] == ["ideogram/Pets", "ideogram/Pets_2"]
    listed = client.get("/datasets").json()["datasets"]
    assert sorted(listed, key=lambda one: one["folder"]) == [first, second]
    assert client.get(f"/datasets/{first['dataset_id']}").json() == {"dataset": first, "file_count": 0, "files": []}
    assert client.files(second) == {}
    assert (root / first["folder"]).is_dir()


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("../../etc/passwd", "_.._etc_passwd"),
        ("C:\\pets", "C_pets"),
        ("..", "dataset"),
        ("con", "dataset"),
        ("__MACOSX", "dataset"),
        (".hidden", "hidden"),
        ("a\nb\x00c", "a_b_c"),
        ("猫とボール", "猫とボール"),
        ("x" * 100, "x" * 60),
        ("é" * 100, "é" * 30),
    ],
)
def test_any_name_is_a_folder_inside_of_ours(client: IdeogramClient, root: Path, name: str, folder: str) -> None:
    dataset = client.create(name)
    assert (dataset["name"], dataset["folder"]) == (name, f"ideogram/{folder}")
    assert [path.name for path in (root / "ideogram").iterdir()] == [folder]
    assert [path.name for path in root.iterdir()] == ["ideogram"]


@pytest.mark.parametrize(
    "values", [{}, {"name": ""}, {"name": " "}, {"name": 5}, {"name": "x" * 101}, {"nam": "x"}, []]
)
def test_a_name_that_is_none_makes_nothing(client: IdeogramClient, root: Path, values: object) -> None:
    answer = client.post("/datasets", values)
    assert answer.status_code == 400
    assert answer.json().keys() == {"detail", "error_type"}
    assert not list(root.iterdir())


def test_only_what_was_made_here_is_listed(client: IdeogramClient, root: Path) -> None:
    (root / "holiday").mkdir()
    (root / "holiday" / "beach.png").write_bytes(picture(0))
    (root / "ideogram" / "by hand").mkdir(parents=True)
    (root / "ideogram" / "by hand" / "cat.png").write_bytes(picture(1))
    dataset = client.create("Pets")
    assert client.get("/datasets").json()["datasets"] == [dataset]


def test_a_folder_that_is_gone_is_gone_from_the_list_until_it_is_back(client: IdeogramClient, root: Path) -> None:
    dataset = client.create("Pets")
    (root / dataset["folder"]).rename(root / "elsewhere")
    assert client.get("/datasets").json() == {"datasets": []}
    gone = client.get(f"/datasets/{dataset['dataset_id']}")
    assert gone.status_code == 404
    assert dataset["folder"] in gone.json()["detail"]
    assert client.send(dataset, [("a.png", png())]).status_code == 404
    (root / "elsewhere").rename(root / dataset["folder"])
    assert client.get("/datasets").json()["datasets"] == [dataset]


def test_a_folder_that_was_deleted_may_be_made_again_and_is_another_dataset(
    client: IdeogramClient, root: Path, tmp_path: Path
) -> None:
    old = client.create("Pets")
    (root / old["folder"]).rmdir()
    new = client.create("Pets")
    assert new["folder"] == old["folder"]
    assert client.get("/datasets").json()["datasets"] == [new]
    assert client.get(f"/datasets/{old['dataset_id']}").status_code == 404


def test_corrected_captions_of_a_dataset_that_is_gone_are_not_given_to_another(
    client: IdeogramClient, root: Path
) -> None:
    (root / "ideogram").mkdir()
    (root / "ideogram" / "Pets.captions.json").write_text("{}")
    assert client.create("Pets")["folder"] == "ideogram/Pets_2"


def test_a_folder_that_became_a_link_leading_out_is_gone(client: IdeogramClient, root: Path, tmp_path: Path) -> None:
    dataset = client.create("Pets")
    (root / dataset["folder"]).rmdir()
    (root / dataset["folder"]).symlink_to(tmp_path / "user", target_is_directory=True)
    assert client.get("/datasets").json() == {"datasets": []}
    assert client.send(dataset, [("a.png", png())]).status_code == 404


def test_records_that_are_damaged_are_not_shown_and_stay(client: IdeogramClient, tmp_path: Path) -> None:
    dataset = client.create("Pets")
    folder = tmp_path / "user" / "__ideogram4_lora_trainer" / "api" / "datasets"
    record = folder / f"{dataset['dataset_id']}.json"
    good = record.read_bytes()
    for bad in (b"", b"{", b"[]", b"{}", b"[" * 100_000, good.replace(b"Pets", b"\xff"), b'{"id": 1}'):
        record.write_bytes(bad)
        assert client.get("/datasets").json() == {"datasets": []}
        assert client.get(f"/datasets/{dataset['dataset_id']}").status_code == 404
        assert record.read_bytes() == bad
    elsewhere = json.loads(good) | {"folder": "../user"}
    record.write_text(json.dumps(elsewhere))
    assert client.get("/datasets").json() == {"datasets": []}


# ---- uploads -------------------------------------------------------------------------------------------------


def test_images_and_captions_in_several_calls(client: IdeogramClient, root: Path) -> None:
    dataset = client.create("Pets")
    files = captioned(3)
    first = client.upload(dataset, *files[:3])
    assert (first["success_count"], first["caption_count"], first["failure_count"]) == (2, 1, 0)
    second = client.upload(dataset, *files[3:], field="files[]")
    assert (second["success_count"], second["caption_count"]) == (1, 2)
    assert client.files(dataset) == {name: len(data) for name, data in files}
    assert {path.name: path.read_bytes() for path in (root / dataset["folder"]).iterdir()} == dict(files)
    opened = open_dataset(root / dataset["folder"])
    assert [item.caption for item in opened.items] == [f"a disc, number {index}" for index in range(3)]
    assert list_datasets(root) == [dataset["folder"]]
    assert [path.name for path in (root / "ideogram").iterdir()] == ["Pets"]


def test_a_zip_is_taken_out_flat_and_by_our_own_reader(client: IdeogramClient, root: Path) -> None:
    dataset = client.create()
    files = {
        "set/one.png": picture(0),
        "set/one.txt": "a disc",
        "set/deep/er/two.webp": png(),
        "__MACOSX/set/._one.png": b"junk",
        "set/.DS_Store": b"junk",
        "set/notes.md": b"words",
        "set/three_mask.png": picture(2),
        "set/inner.zip": zip_of({"four.png": picture(3)}),
    }
    summary = client.upload(dataset, ("set.zip", zip_of(files)))
    assert (summary["success_count"], summary["caption_count"]) == (2, 1)
    assert reasons(summary).keys() == {"set/notes.md", "set/three_mask.png", "set/inner.zip"}
    assert client.files(dataset).keys() == {"one.png", "one.txt", "two.webp"}
    assert (root / dataset["folder"] / "one.png").read_bytes() == picture(0)
    assert (root / dataset["folder"] / "two.webp").read_bytes() == png()


def test_the_same_again_changes_nothing_and_is_well(client: IdeogramClient, root: Path) -> None:
    dataset = client.create()
    files = captioned(2)
    client.upload(dataset, *files)
    before = {path.name: path.stat().st_mtime_ns for path in (root / dataset["folder"]).iterdir()}
    assert client.upload(dataset, *files)["success_count"] == 2
    again = client.upload(dataset, ("set.zip", zip_of(dict(files))), *files, *files)
    assert (again["success_count"], again["failure_count"]) == (6, 0)
    assert {path.name: path.stat().st_mtime_ns for path in (root / dataset["folder"]).iterdir()} == before
    ids = {asset["file_name"]: asset["asset_identifier"]["asset_id"] for asset in again["successful_assets"]}
    assert len(set(ids.values())) == len(ids) == 2


def test_another_image_of_a_name_is_a_failure_and_its_caption_goes_with_it(client: IdeogramClient, root: Path) -> None:
    dataset = client.create()
    client.upload(dataset, ("a.png", picture(0)), ("a.txt", b"the first"))
    summary = client.upload(dataset, ("a.png", picture(1)), ("a.txt", b"the second"), ("b.png", picture(2)))
    assert "another image" in reasons(summary)["a.png"]
    assert "its image" in reasons(summary)["a.txt"]
    assert [asset["file_name"] for asset in summary["successful_assets"]] == ["b.png"]
    assert (root / dataset["folder"] / "a.png").read_bytes() == picture(0)
    assert (root / dataset["folder"] / "a.txt").read_bytes() == b"the first"


def test_a_caption_replaces_an_older_one(client: IdeogramClient, root: Path) -> None:
    dataset = client.create()
    client.upload(dataset, ("a.png", picture(0)), ("a.txt", b"the first"))
    assert client.upload(dataset, ("a.txt", b"the second"))["caption_count"] == 1
    assert (root / dataset["folder"] / "a.txt").read_bytes() == b"the second"


def test_images_beyond_the_limit_are_failures(client: IdeogramClient, tmp_path: Path) -> None:
    settings = tmp_path / "user" / "__ideogram4_lora_trainer" / "api" / "settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"max_images": 3}')
    dataset = client.create()
    files = captioned(5)
    summary = client.upload(dataset, *files)
    assert (summary["success_count"], summary["caption_count"]) == (3, 3)
    assert reasons(summary).keys() == {"03.png", "03.txt", "04.png", "04.txt"}
    assert "3 images already" in reasons(summary)["03.png"]
    assert client.upload(dataset, *files[:6])["success_count"] == 3
    settings.write_text('{"max_images": 5}')
    assert client.upload(dataset, ("all.zip", zip_of(dict(files))))["success_count"] == 5
    assert client.files(dataset) == {name: len(data) for name, data in files}


def test_two_uploads_at_once_lose_nothing(client: IdeogramClient) -> None:
    dataset = client.create()
    files = captioned(24, (20, 20))
    answers = []
    threads = [
        threading.Thread(target=lambda part=part: answers.append(client.send(dataset, part).json()))
        for part in (files[:20], files[16:32], files[28:])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer["failure_count"] for answer in answers] == [0, 0, 0]
    assert client.files(dataset) == {name: len(data) for name, data in files}


def test_a_full_disk_is_said_and_what_was_there_stays(
    client: IdeogramClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = client.create()
    client.upload(dataset, ("a.png", picture(0)), ("a.txt", b"the first"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(intake, "claim_name", full)
    summary = client.upload(dataset, ("b.png", picture(1)), ("b.txt", b"words"), ("c.txt", b"words"))
    assert reasons(summary).keys() == {"b.png", "b.txt"}
    assert "No space left" in reasons(summary)["b.png"]
    assert str(root) not in str(summary)
    assert client.files(dataset).keys() == {"a.png", "a.txt", "c.txt"}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    answer = client.send(dataset, [("b.png", picture(1))])
    assert answer.status_code == 507
    assert "room" in answer.json()["detail"]
    assert client.files(dataset).keys() == {"a.png", "a.txt", "c.txt"}
