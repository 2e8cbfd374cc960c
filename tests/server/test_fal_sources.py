"""Where LoRA files and images come from: names, addresses of ours and of others, data; and whatever else is sent."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import folder_paths
import numpy as np
import pytest
from datasets import picture
from fal_inputs import ID, data_uri, nodes
from internet import ok
from PIL import Image

# ---- LoRA files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("ideogram4_00001.safetensors", "ideogram4_00001"),
        ("ideogram4_00001", "ideogram4_00001"),
        (" ideogram4_00001\n", "ideogram4_00001"),
        ("fal/trainer_1", "fal/trainer_1"),
        ("fal\\trainer_1.safetensors", "fal/trainer_1"),
        ("trainer_1", "fal/trainer_1"),
        ("one.safetensors", "deep/er/one"),
        ("er/one", "deep/er/one"),
        ("a/same", "a/same"),
        ("v1.5", "v1.5"),
        ("My Style", "ideogram/My Style_00010"),
        ("My Style_00002", "ideogram/My Style_00002"),
        ("My Style_00010_fal", "ideogram/My Style_00010_fal"),
        ("style", "style"),  # the whole name of one, and the name of a model too
    ],
)
def test_a_lora_is_found_by_its_name(build: Callable[..., Any], path: str, name: str) -> None:
    (inputs,) = nodes(build(loras=[{"path": path}]).graph, "Ideogram4LoadLoRA")
    assert inputs["lora_name"].replace("\\", "/") == f"{name}.safetensors" and inputs["url"] == ""


def test_a_name_that_fits_several_is_refused_with_them(refused: Callable[..., Any], place: SimpleNamespace) -> None:
    loc, words = refused(loras=[{"path": "style"}, {"path": "same"}])
    assert loc == ["body", "loras", 1, "path"] and "a/same.safetensors" in words and "b/same.safetensors" in words
    (place.root / "output/loras/b/My Style.safetensors").touch()
    folder_paths.filename_list_cache.clear()
    loc, words = refused(loras=[{"path": "My Style"}])
    assert "b/My Style.safetensors" in words and "My Style_00010.safetensors" in words


def hostile_paths(root: Path) -> list[str]:
    there = root / "secret.safetensors"
    there.write_bytes(b"secret")
    (root / "output" / "outside.safetensors").write_bytes(b"secret")
    (root / "output/loras/unlisted.txt").write_bytes(b"secret")
    (root / "output/loras/pickle.pt").write_bytes(b"secret")
    up = [
        "../outside",
        "..\\outside.safetensors",
        "fal/../../outside.safetensors",
        "./ideogram4_00001",
        "fal//trainer_1",
    ]
    absolute = [str(there), str(there.with_suffix("")), "/etc/passwd", "C:\\Windows\\win.ini", "\\\\host\\share\\x"]
    addresses = [there.as_uri(), "file:///etc/passwd", "ftp://dataset.test/x", "http://dataset.test/x.safetensors"]
    addresses += [
        "https://inside.test/x.safetensors",
        "https://127.0.0.1/x",
        "https://[::1]/x",
        "https://u:p@dataset.test/",
    ]
    addresses += [
        "https://dataset.test:99999/",
        "https://",
        "https://no.such.test/x",
        "data:;base64,AAAA",
        "HTTPS://[/x",
    ]
    odd = [
        "none",
        ".",
        "..",
        "/",
        "\\",
        " ",
        ".safetensors",
        "*",
        "ideogram4_0000?",
        "a\0b",
        "ideogram4_00001\0",
        "%2e%2e/x",
    ]
    odd += [
        "loras/ideogram4_00001",
        "unlisted.txt",
        "unlisted",
        "pickle",
        "pickle.pt",
        "My Style_",
        "my style",
        "x" * 8000,
    ]
    return [*up, *absolute, *addresses, *odd]


def test_whatever_else_a_path_says_is_refused(refused: Callable[..., Any], place: SimpleNamespace) -> None:
    for path in hostile_paths(place.root):
        loc, words = refused(loras=[{"path": path}])
        assert loc == ["body", "loras", 0, "path"], path
        assert words and len(words) < 700, path
    assert place.internet.connected == []


def test_an_address_is_judged_now_and_left_to_the_loader(build: Callable[..., Any], place: SimpleNamespace) -> None:
    url = "https://dataset.test/x.safetensors?token=1"
    (inputs,) = nodes(build(loras=[{"path": url}]).graph, "Ideogram4LoadLoRA")
    assert inputs["url"] == url and place.internet.connected == []


@pytest.fixture
def record(fal: SimpleNamespace, place: SimpleNamespace) -> Any:
    """A request that has made a LoRA, its config, and a picture."""
    fal_folder = place.root / "output/loras/fal"
    (fal_folder / "trainer_1_config.json").write_text("{}")
    (place.root / "output/fal").mkdir()
    (place.root / "output/fal/a b.png").write_bytes(picture(2, (96, 64)))
    (place.root / "output/fal/far.safetensors").write_bytes(b"")
    names = [("loras/fal", "trainer_1.safetensors"), ("loras/fal", "trainer_1_config.json")]
    names += [("fal", "a b.png"), ("fal", "far.safetensors"), ("../api", "servers"), ("loras/fal", "gone.safetensors")]
    files = [{"subfolder": s, "filename": n, "content_type": "x/y", "bytes": 1} for s, n in names]
    record = fal.store.Record(id=ID, endpoint="x", graph={}, base="", state="succeeded", files=tuple(files))
    place.store.put(record)
    return record


BASES = ["https://here", "http://127.0.0.1:8188", "https://comfy.example/some/where", "https://here/api"]


@pytest.mark.parametrize("base", BASES)
def test_our_own_files_are_never_called(
    build: Callable[..., Any], refused: Callable[..., Any], place: SimpleNamespace, record: Any, base: str
) -> None:
    own = f"{base}/fal/files/{ID}"
    (inputs,) = nodes(build(loras=[{"path": f"{own}/0/trainer_1.safetensors"}]).graph, "Ideogram4LoadLoRA")
    assert inputs["lora_name"].replace("\\", "/") == "fal/trainer_1.safetensors" and inputs["url"] == ""
    (kept,) = nodes(build(image_url=f"{own}/2/a%20b.png").graph, "LoadImage")
    assert Image.open(place.root / "input" / kept["image"]).size == (96, 64)
    other = own.replace("0123", "ffff")
    files = ["0/other.safetensors", "1/trainer_1_config.json", "2/a%20b.png", "3/far.safetensors", "4/servers"]
    files += ["5/gone.safetensors", "6/x", "999/trainer_1.safetensors"]
    for wrong in [*(f"{own}/{file}" for file in files), f"{other}/0/trainer_1.safetensors"]:
        assert refused(loras=[{"path": wrong}])[0] == ["body", "loras", 0, "path"], wrong
        if "/2/" not in wrong:
            assert refused(image_url=wrong)[0] == ["body", "image_url"], wrong
    assert place.internet.connected == []


# ---- the image -----------------------------------------------------------------------------------------------


def stored(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_an_image_is_kept_once_as_it_is_meant(build: Callable[..., Any], place: SimpleNamespace) -> None:
    upright = Image.open(io.BytesIO(picture(3, (128, 96))))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned = stored(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    place.internet.answers["/x"] = ok(picture(3, (128, 96)))
    names = set()
    for address in (data_uri(turned), data_uri(turned, "application/x"), "https://dataset.test/x"):
        job = build(image_url=address)
        names.add(nodes(job.graph, "LoadImage")[0]["image"])
        assert job.values["size"] == [128, 96]
        assert [nodes(job.graph, "ImageScale")[0][side] for side in ("width", "height")] == [128, 96]
    (name,) = names
    kept = Image.open(place.root / "input" / name)
    assert kept.format == "PNG" and np.array_equal(np.asarray(kept), np.asarray(upright))
    assert [path.name for path in (place.root / "input/fal").iterdir()] == [Path(name).name]


def test_a_large_image_is_kept_smaller_in_its_shape(build: Callable[..., Any], place: SimpleNamespace) -> None:
    job = build(image_url=data_uri(stored(Image.new("L", (6000, 2000)))))
    assert job.values["size"] == [2048, 688]
    assert Image.open(place.root / "input" / nodes(job.graph, "LoadImage")[0]["image"]).size == (4096, 1365)


@pytest.mark.parametrize(
    "address",
    [
        "https://inside.test/x.png",
        "http://dataset.test/x.png",
        "https://dataset.test/missing",
        "https://dataset.test/large",
        "https://dataset.test/page",
        "file:///etc/passwd",
        "/etc/passwd",
        "example.png",
        "data:image/png,raw",
        "data:image/png;base64,%%%",
        data_uri(b""),
        data_uri(b"GIF89a" + bytes(100)),
        data_uri(picture(0)[:-40]),
        data_uri(picture(0, (60, 400))),
        data_uri(picture(0, (3000, 80))),
    ],
)
def test_what_is_no_usable_image_is_refused(refused: Callable[..., Any], place: SimpleNamespace, address: str) -> None:
    place.internet.answers["/large"] = ok(b"x", f"Content-Length: {64 * 2**20 + 1}")
    place.internet.answers["/page"] = ok(b"<!DOCTYPE html>")
    loc, words = refused(image_url=address)
    assert loc == ["body", "image_url"] and words


def test_a_size_of_its_own_lets_any_shape_pass(build: Callable[..., Any]) -> None:
    job = build(image_url=data_uri(picture(0, (60, 400))), image_size={"width": 100, "height": 64})
    assert job.values["size"] == [96, 64]
