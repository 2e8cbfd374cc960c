"""The contact sheet: what it says of every image, and captions that are corrected beside the dataset."""

from __future__ import annotations

import functools
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import workflows
from dataset_forge import encode, noise, png, zip_of
from datasets import dataset_zip, picture
from ideogram4_lora_trainer.server import datasets as views
from ideogram4_lora_trainer.server import likeness, shelf, uploads
from ideogram4_lora_trainer.trainer_core.dataset import crop_box, open_dataset, similar
from PIL import Image
from route_client import RouteClient, served
from safetensors import safe_open
from workflows import node, node_id

JSON_CAPTION = json.dumps(
    {
        "high_level_description": "<img src=x onerror=alert(1)>",
        "compositional_deconstruction": {
            "background": "white",
            "elements": [
                {"type": "obj", "bbox": [100, 200, 600, 700], "desc": "a disc"},
                {"type": "text", "bbox": [0, 0, 1000, 500], "text": "HELLO", "desc": "a word"},
                {"type": "obj", "bbox": [5, 5, 1, 1], "desc": "no box"},
                {"type": "obj", "desc": "without"},
            ],
        },
    },
    separators=(",", ":"),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "input"
    folder.mkdir()
    return folder


@pytest.fixture
def client(root: Path) -> Iterator[RouteClient]:
    add = [functools.partial(module.add_routes, folder=lambda: root) for module in (views, uploads)]
    with served(*add) as client:
        yield client


def put(client: RouteClient, root: Path, files: dict[str, bytes | str], name: str = "set.zip") -> dict[str, str]:
    (root / name).write_bytes(zip_of(files))
    return client.datasets()[name]


# ---- the sheet ------------------------------------------------------------------------------------------------


def test_every_dataset_is_listed_once(client: RouteClient, root: Path) -> None:
    (root / "sub" / "deep").mkdir(parents=True)
    for name in ("a.zip", "sub/b.ZIP", "sub/deep/c.png", "loose.png", "a.zip.captions.json", ".hidden.zip", "x.txt"):
        (root / name).write_bytes(b"x")
    found = client.datasets()
    assert {name: entry["kind"] for name, entry in found.items()} == {
        "a.zip": "zip",
        "sub/b.ZIP": "zip",
        "sub/deep": "folder",
    }
    assert len({entry["id"] for entry in found.values()}) == 3


def test_the_sheet_says_what_will_be_done_with_each_image(client: RouteClient, root: Path) -> None:
    files = {"a.png": png(96, 64, 1), "a.txt": "a wide one", "b.png": png(64, 96, 2), "b.txt": "b" * 300}
    dataset = put(client, root, {**files, "c.png": png(40, 200, 3), "d.pdf": b"x"})
    sheet = client.sheet(dataset)
    assert (sheet["name"], sheet["total"]) == ("set.zip", 3)
    assert (sheet["resolution"]["width"], sheet["resolution"]["height"]) == (64, 64)
    assert "d.pdf" in sheet["report"] and "64x64" in sheet["report"]
    a, b, c = sheet["items"]
    for cell in (a, b):
        box = crop_box(cell["width"], cell["height"], 64, 64)
        assert cell["crop"] == [box.left, box.top, box.width, box.height]
        assert not cell["marks"] and not cell["json"]
    assert (a["caption"], b["caption"]) == ("a wide one", "b" * 200)
    assert c["crop"] is None and c["source"] == "missing" and c["caption"] == ""
    assert [mark["kind"] for mark in c["marks"]] == ["too_small", "no_caption"]
    assert "c.png" in sheet["problem"] and "no caption" in sheet["problem"]


def test_pages(client: RouteClient, root: Path) -> None:
    dataset = put(client, root, {f"{index}.png": png(seed=index) for index in range(7)})
    whole = client.sheet(dataset)["items"]
    pages = [client.sheet(dataset, first=first, count=3)["items"] for first in (0, 3, 6, 9)]
    assert [len(page) for page in pages] == [3, 3, 1, 0]
    assert [cell for page in pages for cell in page] == whole
    for wrong in ({"first": -1}, {"count": 0}, {"count": 501}, {"first": "0"}, {"first": 1.5}, {"count": True}):
        assert client.post(f"/datasets/{dataset['id']}/sheet", wrong).status == 400


def test_resolutions(client: RouteClient, root: Path) -> None:
    dataset = put(client, root, {"a.png": png(70, 90), "a.txt": "x"})
    assert client.sheet(dataset, resolution="auto")["resolution"]["width"] == 64
    for wrong, words in (("65x64", "multiple"), ("huge", "no resolution"), ("\ud800", "no resolution")):
        sheet = client.sheet(dataset, resolution=wrong)
        assert sheet["resolution"] is None and words in sheet["problem"]
        assert sheet["items"][0]["crop"] is None and not sheet["items"][0]["marks"]
    square = client.sheet(dataset, resolution="square")
    assert square["items"][0]["marks"][0]["kind"] == "too_small" and "a.png" in square["problem"]


def test_the_default_caption_of_the_node(client: RouteClient, root: Path) -> None:
    dataset = put(client, root, {"a.png": png(64, 64), "a.txt": "own", "b.png": png(64, 64, 5)})
    shown = client.sheet(dataset, default_caption="default")
    assert [(cell["caption"], cell["source"]) for cell in shown["items"]] == [("own", "file"), ("default", "default")]
    assert shown["problem"] == ""
    forced = client.sheet(dataset, default_caption="default", force_default_caption=True)
    assert [cell["source"] for cell in forced["items"]] == ["forced", "forced"]
    empty = client.sheet(dataset, force_default_caption=True)
    assert "default_caption is empty" in empty["problem"]
    opened = open_dataset(root / "set.zip", default_caption="default")
    assert [item.caption for item in opened.items] == [cell["caption"] for cell in shown["items"]]


def test_near_duplicates_name_their_twin(client: RouteClient, root: Path) -> None:
    image = Image.open(io.BytesIO(png(200, 160, 1))).resize((40, 32)).resize((400, 320))
    files = {"a.png": encode(image), "b.jpg": encode(image.resize((300, 240)), "JPEG", quality=60)}
    other = Image.open(io.BytesIO(png(200, 160, 2))).resize((40, 32)).resize((400, 320))
    dataset = put(client, root, {**files, "c.png": encode(other), "d.png": png(64, 64)})
    a, b, *others = client.sheet(dataset, default_caption="x")["items"]
    assert [mark["kind"] for mark in a["marks"]] == ["near_duplicate"] and "b.jpg" in a["marks"][0]["text"]
    assert "a.png" in b["marks"][0]["text"]
    assert not any(cell["marks"] for cell in others)


def test_an_image_that_upsets_the_comparison_does_not_end_it(
    client: RouteClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    calls = iter([MemoryError(), None, None])

    def signature(image: Image.Image) -> np.ndarray:
        if (error := next(calls)) is not None:
            raise error
        return similar.signature(image)

    monkeypatch.setattr(likeness, "signature", signature)
    dataset = put(client, root, {f"{index}.png": picture(0) for index in range(3)})
    cells = client.sheet(dataset, default_caption="x")["items"]
    assert [len(cell["marks"]) for cell in cells] == [0, 1, 1]
    assert len(told) == 1


def test_findings_and_boxes_of_a_json_caption(client: RouteClient, root: Path) -> None:
    dataset = put(client, root, {"a.png": png(64, 64), "a.txt": JSON_CAPTION, "b.png": png(64, 64, 7), "b.txt": "{"})
    sheet = client.sheet(dataset)
    assert [cell["json"] for cell in sheet["items"]] == [True, True]
    assert [mark["kind"] for mark in sheet["items"][0]["marks"]] == ["json"]
    item = client.item(dataset, 0, sheet["version"]).json
    assert item["caption"] == JSON_CAPTION  # data, as it was written
    assert any("bbox" in finding for finding in item["findings"])
    assert item["boxes"] == [
        {"label": "a disc", "kind": "obj", "box": pytest.approx([0.2, 0.1, 0.5, 0.5])},
        {"label": "HELLO", "kind": "text", "box": pytest.approx([0.0, 0.0, 0.5, 1.0])},
    ]
    assert client.item(dataset, 1, sheet["version"]).json["boxes"] == []


# ---- pictures -------------------------------------------------------------------------------------------------


def test_pictures_are_made_anew_upright_and_never_enlarged(client: RouteClient, root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    files = {"a.jpg": encode(noise(2000, 1000), "JPEG", exif=exif.tobytes(), comment=b"secret"), "b.png": png(30, 20)}
    dataset = put(client, root, files)
    sheet = client.sheet(dataset)
    assert (sheet["items"][0]["width"], sheet["items"][0]["height"]) == (1000, 2000)
    for index, size, expected in ((0, "thumb", (128, 256)), (0, "large", (800, 1600)), (1, "large", (30, 20))):
        answer = client.picture(dataset, index, sheet["version"], size)
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"].startswith("private, max-age=")
        with Image.open(io.BytesIO(answer.body)) as image:
            assert (image.format, image.size) == ("JPEG", expected)
        assert b"secret" not in answer.body and b"Exif" not in answer.body
    again = client.picture(dataset, 0, sheet["version"], If_None_Match=answer.headers["ETag"])
    assert again.status == 200  # the mark of another picture
    mark = client.picture(dataset, 0, sheet["version"]).headers["ETag"]
    assert client.picture(dataset, 0, sheet["version"], If_None_Match=mark).status == 304
    assert client.picture(dataset, 0, sheet["version"], "huge").status == 400


def test_a_picture_that_cannot_be_decoded_is_an_error_in_words(client: RouteClient, root: Path) -> None:
    dataset = put(client, root, {"a.png": png(64, 64)[:-500], "b.png": png(64, 64)})
    sheet = client.sheet(dataset)  # its header is whole, so that it is found out late
    answer = client.picture(dataset, 0, sheet["version"])
    assert answer.status == 400 and "a.png" in answer.error["message"]
    assert client.picture(dataset, 1, sheet["version"]).status == 200


def test_what_is_kept_in_memory_is_bounded() -> None:
    recent: shelf.Recent[bytes] = shelf.Recent(10, len)
    for index in range(20):
        recent.put(index, b"123")
        assert recent.get(index) == b"123"
    recent.put(0, b"12")
    assert [index for index in range(20) if recent.get(index)] == [0, 18, 19]
    assert recent.put("large", b"x" * 11) == b"x" * 11
    assert recent.get("large") is None


# ---- corrections ----------------------------------------------------------------------------------------------


@pytest.fixture
def pets(client: RouteClient, root: Path) -> dict[str, str]:
    return put(client, root, {"a.png": picture(0), "a.txt": "a red disc", "b.png": picture(1)}, "pets.zip")


def test_a_correction_is_saved_beside_the_zip(client: RouteClient, root: Path, pets: dict[str, str]) -> None:
    before = (root / "pets.zip").read_bytes()
    version = client.sheet(pets)["version"]
    text = 'ein "roter" Kreis\n</script>\t\u202e\U0001f534'
    first = client.correct(pets, 0, version=version, caption=text, was="a red disc").json
    assert (first["caption"], first["original"], first["source"]) == (text, "a red disc", "corrected")
    assert client.item(pets, 0, first["version"]).json == first
    second = client.correct(pets, 1, version=first["version"], caption="two", was="").json
    assert (second["caption"], second["original"], second["source"]) == ("two", "", "corrected")
    sheet = client.sheet(pets)
    assert sheet["version"] == second["version"] != first["version"]
    assert "2 corrected" in sheet["report"] and sheet["problem"] == ""
    assert [item.caption for item in open_dataset(root / "pets.zip").items] == [text, "two"]
    assert (root / "pets.zip").read_bytes() == before
    assert sorted(path.name for path in root.iterdir()) == ["pets.zip", "pets.zip.captions.json"]

    third = client.correct(pets, 1, version=second["version"], caption=None, was="two").json
    assert (third["caption"], third["source"]) == ("", "missing")
    last = client.correct(pets, 0, version=third["version"], caption="a red disc", was=text).json
    assert (last["source"], last["version"]) == ("file", version)
    assert sorted(path.name for path in root.iterdir()) == ["pets.zip"]


def test_a_correction_of_a_folder(client: RouteClient, root: Path) -> None:
    dataset = client.upload(("a.png", picture(0)), ("a.txt", b"old"), name="set")
    version = client.sheet(dataset)["version"]
    assert client.correct(dataset, 0, version=version, caption="new", was="old").status == 200
    assert sorted(path.name for path in root.iterdir()) == ["set", "set.captions.json"]
    assert open_dataset(root / "set").items[0].caption == "new"
    assert list(client.datasets()) == ["set"]


def test_a_correction_made_on_an_old_state_is_refused(client: RouteClient, root: Path, pets: dict[str, str]) -> None:
    old = client.sheet(pets)["version"]
    assert client.correct(pets, 0, version=old, caption="one", was="a red disc").status == 200
    for values in (
        {"version": old, "was": "one"},
        {"version": old, "was": "a red disc"},
        {"version": "", "was": "one"},
    ):
        answer = client.correct(pets, 0, caption="two", **values)
        assert (answer.status, answer.error["code"]) == (409, "changed")
    now = client.sheet(pets)["version"]
    assert client.correct(pets, 0, version=now, caption="two", was="a red disc").status == 409
    assert client.item(pets, 0, old).status == 409
    assert client.picture(pets, 0, old).status == 200  # the picture has not changed
    (root / "pets.zip").write_bytes(dataset_zip(2))
    assert client.picture(pets, 0, now).status == 409
    assert client.item(pets, 0, now).error["code"] == "changed"


def test_two_tabs_at_once(client: RouteClient, root: Path) -> None:
    dataset = put(client, root, {f"{index}.png": picture(index) for index in range(6)})
    version = client.sheet(dataset)["version"]
    answers: list[int] = []

    def correct(index: int) -> None:
        answers.append(client.correct(dataset, index, version=version, caption=f"{index}", was="").status)

    threads = [threading.Thread(target=correct, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] + [409] * 5
    saved = json.loads((root / "set.zip.captions.json").read_bytes())["captions"]
    assert len(saved) == 1


@pytest.mark.parametrize(
    ("caption", "status"),
    [
        ("", 400),
        (" \n", 400),
        ("a\0b", 400),
        ("a" * 2**16 + "b", 400),
        ("\u20ac" * 30_000, 400),  # 90,000 bytes
        ("a" * 2**20, 413),
        (5, 400),
        (["a"], 400),
        ({"a": 1}, 400),
        (True, 400),
    ],
)
def test_what_is_no_caption(client: RouteClient, root: Path, pets: dict[str, str], caption: Any, status: int) -> None:
    version = client.sheet(pets)["version"]
    answer = client.correct(pets, 0, version=version, caption=caption, was="a red disc")
    assert answer.status == status, answer.body
    assert answer.error["message"] and str(root) not in answer.error["message"]
    assert client.sheet(pets)["version"] == version


def test_lone_surrogates(client: RouteClient, pets: dict[str, str]) -> None:
    version = client.sheet(pets)["version"]
    assert client.correct(pets, 0, version=version, caption="\ud83d", was="a red disc").status == 400
    assert client.correct(pets, 0, version=version, caption="x", was="\ud83d").status == 409
    assert client.correct(pets, 0, version="\ud83d", caption="x", was="a red disc").status == 409
    assert client.sheet(pets, default_caption="\ud83d")["items"][1]["source"] == "default"
    emoji = client.correct(pets, 0, version=version, caption="\U0001f534", was="a red disc").json
    assert emoji["caption"] == "\U0001f534"


def test_a_caption_must_be_told(client: RouteClient, pets: dict[str, str]) -> None:
    version = client.sheet(pets)["version"]
    assert client.correct(pets, 0, version=version, was="a red disc").status == 400
    assert client.correct(pets, 0, version=version, caption="x").status == 400
    assert client.correct(pets, 0, caption="x", was="a red disc").status == 400


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"ideogram4_lora_trainer": "captions", "version": 9}'])
def test_a_damaged_file_of_corrections(client: RouteClient, root: Path, pets: dict[str, str], data: bytes) -> None:
    version = client.sheet(pets)["version"]
    beside = root / "pets.zip.captions.json"
    beside.write_bytes(data)
    for answer in (
        client.post(f"/datasets/{pets['id']}/sheet", {}),
        client.correct(pets, 0, version=version, caption="x", was="a red disc"),
    ):
        assert answer.status == 400
        assert "pets.zip.captions.json" in answer.error["message"] and str(root) not in answer.error["message"]
    assert beside.read_bytes() == data


def test_a_folder_that_cannot_be_written_to(
    client: RouteClient, root: Path, pets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = client.sheet(pets)["version"]
    usage = SimpleNamespace(free=1)
    monkeypatch.setattr("ideogram4_lora_trainer.trainer_core.storage.shutil.disk_usage", lambda _: usage)
    answer = client.correct(pets, 0, version=version, caption="x", was="a red disc")
    assert (answer.status, answer.error["code"]) == (507, "not_written")
    assert str(root) not in answer.error["message"]
    assert sorted(path.name for path in root.iterdir()) == ["pets.zip"]


# ---- who asks, and for what -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        "..",
        "..%2f..%2fsecret.zip",
        "%2fetc%2fpasswd",
        "%00",
        "pets.zip",
        "secret.zip",
        "link.zip",
        "0" * 32,
        "%ff",
        "*",
    ],
)
def test_ids_are_no_paths(client: RouteClient, root: Path, pets: dict[str, str], wrong: str) -> None:
    (root.parent / "secret.zip").write_bytes(dataset_zip(1))
    (root / "link.zip").symlink_to(root.parent / "secret.zip")
    assert list(client.datasets()) == ["pets.zip"]
    version = client.sheet(pets)["version"]
    assert client.post(f"/datasets/{wrong}/sheet", {}).status == 404
    assert client.get(f"/datasets/{wrong}/items/0?version={version}").status == 404
    assert client.get(f"/datasets/{wrong}/items/0/image?version={version}").status == 404
    values = {"version": version, "caption": "x", "was": "a red disc"}
    assert client.post(f"/datasets/{wrong}/items/0/caption", values).status == 404


@pytest.mark.parametrize("wrong", ["2", "-1", "x", "1.0", "%00", "..", "999999999999999999999", "٣".encode().hex()])
def test_indexes_are_numbers(client: RouteClient, pets: dict[str, str], wrong: str) -> None:
    version = client.sheet(pets)["version"]
    assert client.get(f"/datasets/{pets['id']}/items/{wrong}?version={version}").status == 404
    assert client.get(f"/datasets/{pets['id']}/items/{wrong}/image?version={version}").status == 404


def test_a_link_that_takes_a_datasets_place(client: RouteClient, root: Path, pets: dict[str, str]) -> None:
    version = client.sheet(pets)["version"]
    secret = root.parent / "secret.zip"
    (root / "pets.zip").rename(secret)
    (root / "pets.zip").symlink_to(secret)
    assert client.item(pets, 0, version).status == 404
    assert client.picture(pets, 0, version).status == 404
    (root / "pets.zip").unlink()
    assert client.post(f"/datasets/{pets['id']}/sheet", {}).status == 404


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.test"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}]
)
def test_pages_of_other_sites(client: RouteClient, root: Path, pets: dict[str, str], headers: dict[str, str]) -> None:
    version = client.sheet(pets)["version"]
    base = f"/datasets/{pets['id']}"
    for path in ("/datasets", f"{base}/items/0?version={version}", f"{base}/items/0/image?version={version}"):
        assert client.get(path, **headers).status == 403
    values = {"version": version, "caption": "x", "was": "a red disc"}
    for path in (f"{base}/sheet", f"{base}/items/0/caption"):
        assert client.post(path, values, **headers).status == 403
    assert client.post(f"{base}/items/0/caption", values, Content_Type="text/plain").status == 415
    assert not (root / "pets.zip.captions.json").exists()
    same = {"Origin": f"http://{client.address}", "Sec_Fetch_Site": "same-origin"}
    assert client.post(f"{base}/items/0/caption", values, **same).status == 200


# ---- the real server ------------------------------------------------------------------------------------------


def caption_of_a_run(server: SimpleNamespace, graph: workflows.Graph) -> str:
    """Run the graph and return the caption that the encoder, and so the saved LoRA, got."""
    outputs = server.client.run(graph)
    assert outputs[node_id(graph, "Ideogram4LoadDataset")]["ideogram4_dataset"] == ["corrected.zip"]
    saved = outputs[node_id(graph, "Ideogram4SaveLoRA")]["files"]
    file = next(f for f in saved if f["filename"].endswith(".safetensors"))
    with safe_open(server.output / file["subfolder"] / file["filename"], framework="np") as lora:
        return lora.metadata()["ideogram4_lora_trainer.caption_sample"]


def test_a_corrected_caption_reaches_training(comfy_server: SimpleNamespace) -> None:
    client = RouteClient(comfy_server.client.url)
    dataset = client.upload(("corrected.zip", dataset_zip(1)))
    listed = comfy_server.client.get("/object_info/Ideogram4LoadDataset")
    assert "corrected.zip" in json.dumps(listed)
    graph = workflows.load("train_from_zip", dataset="corrected.zip", steps=2)
    node(graph, "Ideogram4SaveLoRA")["filename_prefix"] = "loras/corrected"
    assert caption_of_a_run(comfy_server, graph) == "a red disc"
    sheet = client.sheet(dataset)
    item = client.item(dataset, 0, sheet["version"]).json
    saved = client.correct(dataset, 0, version=item["version"], caption=JSON_CAPTION, was=item["caption"])
    assert saved.status == 200, saved.body
    # The same graph again: ComfyUI keeps the results of nodes whose inputs are the same.
    sample = caption_of_a_run(comfy_server, graph)
    assert sample.startswith('{"high_level_description":"<img src=x')
    # A zip of the same name with other contents: the correction was not made for it.
    (comfy_server.input / "corrected.zip").write_bytes(zip_of({"set/00.png": picture(4), "set/00.txt": "another"}))
    assert caption_of_a_run(comfy_server, graph) == "another"
    sheet = client.sheet(dataset)
    assert "passed over" in sheet["report"] and "set/00.png" in sheet["report"]


def test_on_comfyuis_own_server(comfy_server: SimpleNamespace) -> None:
    client = RouteClient(comfy_server.client.url)
    files = [("a.png", picture(0)), ("a.txt", b"a disc"), ("b.png", picture(3))]
    dataset = client.upload(*files, name="dropped")
    sheet = client.sheet(dataset)
    assert [cell["source"] for cell in sheet["items"]] == ["file", "missing"]
    with Image.open(io.BytesIO(client.picture(dataset, 0, sheet["version"]).body)) as image:
        shown = np.asarray(image.convert("RGB"), dtype=int)
    with Image.open(io.BytesIO(picture(0))) as image:
        assert abs(shown - np.asarray(image.convert("RGB"), dtype=int)).mean() < 5
    assert client.picture(dataset, 0, sheet["version"]).headers["Cache-Control"].startswith("private, max-age=")
    answer = client.post("/uploads", {"files": [{"name": "a.zip", "bytes": 5}]}, Origin="https://evil.test")
    assert answer.status == 403
    assert comfy_server.client.get("/api/ideogram4_lora_trainer/datasets")["datasets"]
    assert not [path for path in comfy_server.input.iterdir() if path.name.startswith(".")]
