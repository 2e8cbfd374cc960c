"""What people get wrong: each mistake is made on a real server, or with the node itself, by a function of its own.

To add one, write a function under `@mistake("what the user did")` that prepares it and returns the graph to queue.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import folder_paths
import pytest
import torch
import workflows
from dataset_forge import Entry, encode, forge, noise, png, zip_of
from datasets import dataset_zip
from safetensors.torch import save
from workflows import Graph, node

Mistake = Callable[[SimpleNamespace], Graph | str]
MISTAKES: dict[str, Mistake] = {}
"""What the user did: a function that prepares the server's folders and returns the graph to queue.

Or the message itself, where a server without network or other models cannot be brought to say it (`said_by`)."""


def mistake(title: str) -> Callable[[Mistake], Mistake]:
    def register(make: Mistake) -> Mistake:
        assert title not in MISTAKES
        MISTAKES[title] = make
        return make

    return register


def good(server: SimpleNamespace) -> Graph:
    """A graph that would train."""
    return workflows.load("train_from_zip", steps=2, dataset=server.client.upload("fine.zip", dataset_zip()))


def said_by(name: str, **inputs: Any) -> str:
    """What a node raises that must fail, in the form that the server's messages get."""
    from ideogram4_lora_trainer import nodes
    from ideogram4_lora_trainer.trainer_core.errors import UserError

    node_class = getattr(nodes, f"Ideogram4{name}")
    with pytest.raises(UserError) as caught:
        node_class.PREPARE_CLASS_CLONE(None).EXECUTE_NORMALIZED(**inputs)
    return f"{node_class.GET_SCHEMA().display_name}: {caught.value}"


# ---- the dataset ---------------------------------------------------------------------------------------------

PHOTO = png(96, 80)
JPEG = encode(noise(96, 80), "JPEG")
CAPTION = "a red disc"
SMALL = png(40, 32)
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)

DATASETS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "The zip holds videos": ("holiday.zip", lambda: zip_of({"clips/a.mp4": b"x", "clips/b.mov": b"x"})),
    "The zip holds another zip": ("all.zip", lambda: zip_of({"photos.zip": dataset_zip(1), "readme.md": b"x"})),
    "The zip is empty": ("empty.zip", lambda: zip_of({})),
    "No captions at all": ("photos.zip", lambda: dataset_zip(3, captions=False)),
    "Captions named otherwise than their images": (
        "photos.zip",
        lambda: zip_of({"img_1.png": PHOTO, "img_2.png": png(96, 80, seed=1), "1.txt": CAPTION, "2.txt": CAPTION}),
    ),
    "One caption file is empty": ("photos.zip", lambda: zip_of({"a.png": PHOTO, "a.txt": " \n"})),
    "A caption in Latin-1": ("photos.zip", lambda: zip_of({"a.png": PHOTO, "a.txt": "café".encode("latin-1")})),
    "A caption saved by Windows Notepad as Unicode": (
        "photos.zip",
        lambda: zip_of({"a.png": PHOTO, "a.txt": b"a\0 \0r\0e\0d\0"}),
    ),
    "Photos straight from an iPhone": ("iphone.zip", lambda: zip_of({"IMG_1.HEIC": HEIC, "IMG_1.txt": CAPTION})),
    "HEIC photos renamed to .jpg": ("iphone.zip", lambda: zip_of({"IMG_1.jpg": HEIC, "IMG_1.txt": CAPTION})),
    "A JPEG that was cut off": (
        "photos.zip",
        lambda: zip_of({"a.jpg": JPEG[: len(JPEG) // 2], "a.txt": CAPTION}),
    ),
    "A JPEG of which nothing is left": ("photos.zip", lambda: zip_of({"a.jpg": b"", "a.txt": CAPTION})),
    "A zip with a password": (
        "secret.zip",
        lambda: forge([Entry(b"a.png", PHOTO, flags=1), Entry(b"a.txt", CAPTION.encode(), flags=1)]),
    ),
    "A rar renamed to zip": ("photos.zip", lambda: b"Rar!\x1a\x07\x01\0" + bytes(200)),
    "A download that broke off": ("photos.zip", lambda: dataset_zip(3)[:-60]),
    "A saved web page instead of the zip": ("dataset.zip", lambda: b"<!DOCTYPE html><html>Sign in</html>"),
    "A zip made by 7-Zip with LZMA": (
        "photos.zip",
        lambda: forge([Entry(b"a.png", PHOTO, method=14), Entry(b"a.txt", b"a disc")]),
    ),
    "A zip with Photo.png and photo.PNG": (
        "photos.zip",
        lambda: zip_of({"Photo.png": PHOTO, "photo.PNG": PHOTO, "Photo.txt": CAPTION}),
    ),
    "Some images smaller than the resolution": (
        "photos.zip",
        lambda: zip_of({"a.png": PHOTO, "a.txt": CAPTION, "icon.png": SMALL, "icon.txt": CAPTION}),
    ),
}


def register_dataset(title: str, name: str, content: Callable[[], bytes]) -> None:
    @mistake(title)
    def make(server: SimpleNamespace) -> Graph:
        return workflows.load("train_from_zip", dataset=server.client.upload(name, content()))


for _title, (_name, _content) in DATASETS.items():
    register_dataset(_title, _name, _content)


@mistake("No dataset is chosen")
def no_dataset(server: SimpleNamespace) -> Graph:
    return workflows.load("train_from_zip", dataset="none")


@mistake("The dataset was deleted after the workflow was saved")
def dataset_gone(server: SimpleNamespace) -> Graph:
    return workflows.load("train_from_zip", dataset="last_year.zip")


@mistake("The dataset lies elsewhere on the disk")
def dataset_elsewhere(server: SimpleNamespace) -> Graph:
    return workflows.load("train_from_zip", dataset="C:\\Users\\me\\Pictures\\photos.zip")


@mistake("The default caption is forced, but empty")
def forced_nothing(server: SimpleNamespace) -> Graph:
    graph = good(server)
    node(graph, "Ideogram4LoadDataset").update(default_caption=" ", force_default_caption=True)
    return graph


# ---- the address ---------------------------------------------------------------------------------------------

ADDRESSES = {
    "An http address": "http://example.com/photos.zip",
    "An address without https": "example.com/photos.zip",
    "A path instead of an address": "/home/me/photos.zip",
    "An address in the own network": "https://127.0.0.1:8000/photos.zip",
    "An address with a password in it": "https://me:secret@example.com/photos.zip",
    "A data URI that is no base64": "data:application/zip,PK",
}


def register_address(title: str, url: str) -> None:
    @mistake(title)
    def make(server: SimpleNamespace) -> Graph:
        graph = good(server)
        node(graph, "Ideogram4LoadDataset")["url"] = url
        return graph


for _title, _url in ADDRESSES.items():
    register_address(_title, _url)


PAGES = {
    "A Google Drive page instead of the file": ("https://drive.google.com/file/d/1aB/view?usp=sharing", 200, "OK"),
    "A Hugging Face page instead of the file": ("https://huggingface.co/datasets/me/set/blob/main/a.zip", 200, "OK"),
    "An address that has expired": ("https://bucket.s3.amazonaws.com/photos.zip?signature=x", 403, "Forbidden"),
    "An address with a typing error": ("https://example.com/photo.zip", 404, "Not Found"),
}


def register_page(title: str, url: str, status: int, reason: str) -> None:
    @mistake(title)
    def make(server: SimpleNamespace) -> str:
        page = io.BytesIO(b"<!DOCTYPE html><html><title>Sign in</title></html>")
        answer = SimpleNamespace(
            status=status, reason=reason, length=None, getheader=lambda _name, default="": default, read1=page.read1
        )
        from ideogram4_lora_trainer.trainer_core.remote import connection

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(folder_paths, "temp_directory", str(server.base / "temp"))
            patch.setattr(connection, "request", lambda *_: contextlib.nullcontext(answer))
            return said_by("LoadDataset", dataset="none", default_caption="", force_default_caption=False, url=url)


for _title, _page in PAGES.items():
    register_page(_title, *_page)


# ---- the resolution ------------------------------------------------------------------------------------------

SIZES = {
    "A resolution that is no multiple of 16": {"resolution": "custom", "custom": "1000x1000"},
    "A resolution that is too large": {"resolution": "custom", "custom": "4096x4096"},
    "A resolution in words": {"resolution": "custom", "custom": "HD"},
    "A custom resolution that is not filled in": {"resolution": "custom", "custom": ""},
    "A preset larger than the images": {"resolution": "square", "custom": ""},
}


def register_size(title: str, inputs: dict[str, str]) -> None:
    @mistake(title)
    def make(server: SimpleNamespace) -> Graph:
        graph = good(server)
        node(graph, "Ideogram4ResolveResolution").update(inputs)
        return graph


for _title, _inputs in SIZES.items():
    register_size(_title, _inputs)


# ---- the models ----------------------------------------------------------------------------------------------


@mistake("Another model's VAE")
def wrong_vae(server: SimpleNamespace) -> Graph:
    graph = good(server)
    node(graph, "VAELoader")["vae_name"] = "pixel_space"
    return graph


@mistake("The text encoder is loaded as another type")
def wrong_clip_type(server: SimpleNamespace) -> Graph:
    graph = good(server)
    node(graph, "CLIPLoader")["type"] = "stable_diffusion"
    return graph


@mistake("The unconditional model")
def unconditional(server: SimpleNamespace) -> Graph:
    graph = good(server)
    node(graph, "UNETLoader")["unet_name"] = "ideogram4_tiny_unconditional_bf16.safetensors"
    return graph


@mistake("A FLUX model")
def other_family(server: SimpleNamespace) -> str:
    class Flux:
        """As ComfyUI names the models that it loads."""

    inputs = {"lora_name": "mine.safetensors", "strength": 1.0, "mode": "merge"}
    with pytest.MonkeyPatch.context() as patch:
        folder = server.base / "models" / "loras"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mine.safetensors").write_bytes(lora(O_LAYER))
        patch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(folder)], {".safetensors"}))
        patch.setattr(folder_paths, "filename_list_cache", {})
        return said_by("LoadLoRA", model=SimpleNamespace(model=Flux()), **inputs)


@mistake("Encoded with one model, trained on another")
def other_model(server: SimpleNamespace) -> Graph:
    graph = good(server)
    graph["other"] = {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "ideogram4_tiny_fp8_scaled.safetensors", "weight_dtype": "default"},
    }
    node(graph, "Ideogram4TrainLoRA")["model"] = ["other", 0]
    return graph


# ---- the settings --------------------------------------------------------------------------------------------


@mistake("A learning rate of 1 from another node")
def linked_learning_rate(server: SimpleNamespace) -> Graph:
    graph = good(server)
    graph["rate"] = {"class_type": "PrimitiveFloat", "inputs": {"value": 1.0}}
    node(graph, "Ideogram4TrainLoRA")["learning_rate"] = ["rate", 0]
    return graph


@mistake("A batch of 0 images from another node")
def linked_batch_size(server: SimpleNamespace) -> Graph:
    graph = good(server)
    graph["batch"] = {"class_type": "PrimitiveInt", "inputs": {"value": 0}}
    schema = server.client.get("/object_info/Ideogram4TrainSettings")["Ideogram4TrainSettings"]["input"]["required"]
    defaults = {name: options["default"] for name, (_, options) in schema.items()}
    graph["settings"] = {"class_type": "Ideogram4TrainSettings", "inputs": defaults | {"batch_size": ["batch", 0]}}
    node(graph, "Ideogram4TrainLoRA")["settings"] = ["settings", 0]
    return graph


# ---- saving --------------------------------------------------------------------------------------------------

PREFIXES = {
    "A file name with a colon": "loras/style: noir",
    "A name outside of the output folder": "../my loras/noir",
    "A whole path as the name": "D:\\loras\\noir",
    "A folder that is a file": "taken.txt/noir",
}


def register_prefix(title: str, prefix: str) -> None:
    @mistake(title)
    def make(server: SimpleNamespace) -> Graph:
        server.output.mkdir(exist_ok=True)
        (server.output / "taken.txt").touch()
        graph = good(server)
        node(graph, "Ideogram4SaveLoRA")["filename_prefix"] = prefix
        return graph


for _title, _prefix in PREFIXES.items():
    register_prefix(_title, _prefix)


# ---- loading a LoRA ------------------------------------------------------------------------------------------


def lora(layer: str, out: int = 256, width: int = 256, value: float = 0.0, suffix: str = "lora_") -> bytes:
    down, up = torch.full((4, width), value), torch.zeros(out, 4)
    return save({f"{layer}.{suffix}A.weight": down, f"{layer}.{suffix}B.weight": up})


O_LAYER = "diffusion_model.layers.0.attention.o"
LORAS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "A LoRA for FLUX": ("flux", lambda: lora("transformer.single_transformer_blocks.0.attn.to_q", 3072, 3072)),
    "A LoRA for a model of another size": ("large", lambda: lora(O_LAYER, 4608, 4608)),
    "A LoRA for a deeper model": ("deep", lambda: lora("diffusion_model.layers.33.attention.o")),
    "A pickled LoRA under another name": ("old", lambda: b"PK\x03\x04" + bytes(200)),
    "A LoRA whose training diverged": ("burnt", lambda: lora(O_LAYER, value=float("nan"))),
    "A LoRA that was not downloaded whole": ("half", lambda: lora(O_LAYER)[:-100]),
    "A whole model as a LoRA": ("model", lambda: save({"layers.0.attention.o.weight": torch.zeros(256, 256)})),
    "A DoRA": ("dora", lambda: save({f"{O_LAYER}.dora_scale": torch.zeros(256)})),
}


def register_lora(title: str, name: str, content: Callable[[], bytes]) -> None:
    @mistake(title)
    def make(server: SimpleNamespace) -> Graph:
        folder = server.output / "loras"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.safetensors").write_bytes(content())
        graph = workflows.load("text_to_image")
        node(graph, "Ideogram4LoadLoRA")["lora_name"] = f"{name}.safetensors"
        return graph


for _title, (_name, _content) in LORAS.items():
    register_lora(_title, _name, _content)


@mistake("The LoRA was deleted after the workflow was saved")
def lora_gone(server: SimpleNamespace) -> Graph:
    graph = workflows.load("text_to_image")
    graph["name"] = {"class_type": "PrimitiveString", "inputs": {"value": "gone.safetensors"}}
    graph["any"] = {
        "class_type": "ComfySwitchNode",
        "inputs": {"switch": True, "on_true": ["name", 0], "on_false": ["name", 0]},
    }
    node(graph, "Ideogram4LoadLoRA")["lora_name"] = ["any", 0]
    return graph


# ---- resuming ------------------------------------------------------------------------------------------------

RUN = "mistakes_00001"


def resuming(server: SimpleNamespace, **inputs: Any) -> Graph:
    """A graph that would continue a finished run of two steps, but for `inputs` of the train node."""
    graph = good(server)
    node(graph, "Ideogram4TrainLoRA")["run_name"] = "mistakes"
    if not (server.output / "ideogram4_runs" / RUN).is_dir():
        server.client.run(graph)
    node(graph, "Ideogram4TrainLoRA").update({"resume": RUN, **inputs})
    return graph


@mistake("Another learning rate for a run that is resumed")
def other_rate(server: SimpleNamespace) -> Graph:
    return resuming(server, steps=4, learning_rate=1e-4)


@mistake("Another rank for a run that is resumed")
def other_rank(server: SimpleNamespace) -> Graph:
    return resuming(server, rank=16)


@mistake("Fewer steps than the run has done")
def fewer_steps(server: SimpleNamespace) -> Graph:
    return resuming(server, steps=1)


@mistake("An image was added to the dataset of a run that is resumed")
def another_image(server: SimpleNamespace) -> Graph:
    graph = resuming(server)
    node(graph, "Ideogram4LoadDataset")["dataset"] = server.client.upload("more.zip", dataset_zip(4))
    return graph


@mistake("A run that was deleted")
def deleted_run(server: SimpleNamespace) -> str:
    from ideogram4_lora_trainer.trainer_core.errors import RunNotFound
    from ideogram4_lora_trainer.trainer_core.training.runs import find_run

    # The message lists the runs that are there, which on the server depends on other tests.
    with pytest.raises(RunNotFound) as caught:
        find_run(server.base / "deleted" / "ideogram4_runs", "ideogram4_00007")
    return f"Ideogram 4 Train LoRA: {caught.value}"


@mistake("A run name with a slash")
def run_name_with_slash(server: SimpleNamespace) -> Graph:
    graph = good(server)
    node(graph, "Ideogram4TrainLoRA")["run_name"] = "cats/second try"
    return graph


@mistake("A run begins with a LoRA of higher rank")
def start_from_higher_rank(server: SimpleNamespace) -> Graph:
    key = "diffusion_model.layers.0.attention.o"
    tensors = {f"{key}.lora_A.weight": torch.zeros(64, 256), f"{key}.lora_B.weight": torch.zeros(256, 64)}
    (server.output / "loras").mkdir(parents=True, exist_ok=True)
    (server.output / "loras" / "rank64.safetensors").write_bytes(save(tensors))
    graph = good(server)
    node(graph, "Ideogram4TrainLoRA")["start_from_lora"] = "rank64.safetensors"
    return graph
