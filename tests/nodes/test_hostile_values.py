"""Names, paths and choices from a tampered workflow: refused with a sentence, or kept inside the folder.

The values go straight into the nodes, as the executor hands over what a link brings: ComfyUI's validation never sees
those. A folder tree around ComfyUI's own folders is compared before and after.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import folder_paths
import pytest
from datasets import dataset_zip
from foreign_loras import fused_lora
from ideogram4_lora_trainer.trainer_core.errors import UserError
from safetensors.torch import save_file
from trees import snapshot

REFUSED, INSIDE = "refused", "inside"

PATHS: dict[str, str] = {
    "parent": "../escaped",
    "far parent": "../" * 40 + "tmp/escaped",
    "parent in the middle": "loras/../../escaped",
    "parent at the end": "loras/../..",
    "doubled dots": "....//....//escaped",
    "backslashes": "..\\..\\escaped",
    "mixed slashes": "loras\\../..\\escaped",
    "percent-encoded": "%2e%2e%2f%2e%2e%2fescaped",
    "doubly encoded": "%252e%252e%252fescaped",
    "full-width dots and slash": "\uff0e\uff0e\uff0fescaped",
    "over-long UTF-8 as text": "\u00c0\u00ae\u00c0\u00ae/escaped",
    "division slash": "..\u2215..\u2215escaped",
    "absolute": "/tmp/ideogram4-escaped",
    "two slashes": "//tmp/escaped",
    "home": "~/escaped",
    "environment": "$HOME/escaped",
    "windows environment": "%USERPROFILE%\\escaped",
    "file URL": "file:///tmp/escaped",
    "drive": "C:\\Windows\\escaped",
    "drive without a slash": "C:escaped",
    "network share": "\\\\server\\share\\escaped",
    "network share, slashes": "//server/share/escaped",
    "long-path prefix": "\\\\?\\C:\\escaped",
    "named pipe": "\\\\.\\pipe\\escaped",
    "NUL at the end": "loras/a\0",
    "NUL before an ending": "loras/a\0.safetensors",
    "lone surrogate": "loras/\ud800",
    "over-long name": "loras/" + "a" * 300,
    "over-long path": "a/" * 5000 + "a",
    "link out": "link_out/escaped",
    "link out by way of a folder": "loras/link_out/escaped",
    "link to a file outside": "link_file",
    "link in circles": "circle/a",
    "a file as a folder": "fine.zip/a",
    "device": "CON",
    "device with an ending": "loras/nul.txt",
    "device as a folder": "aux/a",
    "alternate stream": "loras/a:hidden",
    "trailing dots": "loras.../a",
    "trailing spaces": "loras /a",
    "dots alone": "loras/...",
    "hidden": ".ideogram4-lora-partial-x/a",
    "date with a smuggled slash": "%date:yyyy/../../MM%",
    "unknown field": "%../../x.filename_prefix%",
    "year in a traversal": "../%year%",
    "newline": "loras/a\nb",
    "control characters": "loras/a\x1b[2Jb",
    "bidi override": "loras/a\u202egnp.exe",
    "line separator": "loras/a\u2028b",
    "wildcards": "loras/*?",
    "quotes and pipes": 'loras/"a"|b>c',
}  # fmt: skip
PREFIXES_KEPT_INSIDE = {
    "full-width dots and slash", "over-long UTF-8 as text", "percent-encoded", "doubly encoded",
    "home", "environment", "windows environment",
}  # fmt: skip
"""Odd, but plain names in the end: files are written, below the output folder."""
NOT_TEXT: dict[str, Any] = {
    "None": None, "a number": 7, "a fraction": 0.5, "true": True, "a list": ["loras/a"], "a table": {"a": 1},
    "bytes": b"loras/a", "a path": Path("loras/a"),
}  # fmt: skip


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """ComfyUI's folders in the middle of others, with links that lead out of them."""
    base, outside = tmp_path / "comfy", tmp_path / "outside"
    for folder in ("input", "output", "temp", "user", "loras"):
        inner = base / folder / "loras"
        inner.mkdir(parents=True)
        (base / folder / "link_out").symlink_to(outside)
        (inner / "link_out").symlink_to(outside)
        (base / folder / "link_file").symlink_to(outside / "secret.safetensors")
        (base / folder / "circle").symlink_to("circle")
        (base / folder / "fine.zip").write_bytes(dataset_zip(1))
        if folder != "loras":
            monkeypatch.setattr(folder_paths, f"{folder}_directory", str(base / folder))
    outside.mkdir()
    save_file(good_lora(), outside / "secret.safetensors")
    save_file(good_lora(), tmp_path / "escaped")
    (outside / "escaped").write_bytes(dataset_zip(1))
    save_file(good_lora(), base / "loras" / "mine.safetensors")
    os.mkfifo(base / "loras" / "pipe.safetensors")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(base / "loras")], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return SimpleNamespace(root=tmp_path, output=base / "output")


def good_lora() -> dict[str, Any]:
    return fused_lora("comfy", {"layers.0.attention.o": (8, 8)})[0]


@pytest.fixture(scope="module")
def execute(pack: ModuleType) -> Callable[..., Any]:
    """`execute("SaveLoRA", ...)` runs a node as the executor does, on a clone of its class."""
    from ideogram4_lora_trainer import nodes

    def run(name: str, **inputs: Any) -> Any:
        node = getattr(nodes, f"Ideogram4{name}").PREPARE_CLASS_CLONE(None)
        return node.EXECUTE_NORMALIZED(**inputs)

    return run


def refused_or_inside(call: Callable[[], Any]) -> str:
    """How it ended; anything but a sentence for the user, short and printable, is a failure."""
    try:
        call()
    except UserError as error:
        message = str(error)
        assert len(message) < 800
        assert message.isprintable()
        assert message.endswith(".")
        assert "Errno" not in message
        return REFUSED
    return INSIDE


# ---- save ----------------------------------------------------------------------------------------------------


def save(execute: Callable[..., Any], prefix: Any, layout: Any = "comfy") -> None:
    execute("SaveLoRA", lora=good_lora(), filename_prefix=prefix, output_lora_format=layout)


@pytest.mark.parametrize("case", PATHS)
def test_save_prefixes(execute: Callable[..., Any], around: SimpleNamespace, case: str) -> None:
    before = snapshot(around.root)
    verdict = refused_or_inside(lambda: save(execute, PATHS[case]))
    assert verdict == (INSIDE if case in PREFIXES_KEPT_INSIDE else REFUSED)
    after = snapshot(around.root)
    new = after.keys() - before.keys()
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("comfy/output/") and after[name][0] in ("file", "folder") for name in new)
    assert len([name for name in new if name.endswith("_00001.safetensors")]) == (verdict == INSIDE)
    assert verdict == INSIDE or not new


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("loras/a", "loras/a_00001.safetensors"),
        ("loras\\a", "loras/a_00001.safetensors"),
        ("new/folder/", "new/folder/ideogram4_00001.safetensors"),
        ("", "loras/ideogram4_00001.safetensors"),
        ("./a", "a_00001.safetensors"),
        ("a" * 200, "a" * 200 + "_00001.safetensors"),
    ],
)
def test_honest_prefixes(execute: Callable[..., Any], around: SimpleNamespace, prefix: str, expected: str) -> None:
    save(execute, prefix)
    assert (around.output / expected).is_file()


def test_dates_are_filled_in_and_numbers_counted(execute: Callable[..., Any], around: SimpleNamespace) -> None:
    for _ in range(2):
        save(execute, "loras/%year%-%month%-%day%_%hour%%minute%%second%x")
    names = sorted(path.name for path in (around.output / "loras").glob("*.safetensors"))
    assert len(names) == 2
    assert all(name.startswith("20") and "%" not in name for name in names)


def test_an_output_folder_that_is_a_link_itself(execute: Callable[..., Any], around: SimpleNamespace) -> None:
    link = around.root / "output by link"
    link.symlink_to(around.output)
    folder_paths.set_output_directory(str(link))
    (saved,) = execute("SaveLoRA", lora=good_lora(), filename_prefix="a", output_lora_format="comfy").result
    assert saved == "a_00001.safetensors"


# ---- load ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", PATHS)
def test_datasets(execute: Callable[..., Any], around: SimpleNamespace, case: str) -> None:
    before = snapshot(around.root)
    inputs = {"default_caption": "", "force_default_caption": False, "url": ""}
    assert refused_or_inside(lambda: execute("LoadDataset", dataset=PATHS[case], **inputs)) == REFUSED
    assert snapshot(around.root) == before


@pytest.mark.parametrize("name", ["", ".", "none", "loras/..", "gone.zip"])
def test_no_dataset_in_particular(execute: Callable[..., Any], around: SimpleNamespace, name: str) -> None:
    inputs = {"default_caption": "a", "force_default_caption": True, "url": ""}
    assert refused_or_inside(lambda: execute("LoadDataset", dataset=name, **inputs)) == REFUSED


def test_the_honest_dataset(execute: Callable[..., Any], around: SimpleNamespace) -> None:
    inputs = {"default_caption": "", "force_default_caption": False, "url": ""}
    assert execute("LoadDataset", dataset="fine.zip", **inputs).result[0].name == "fine.zip"


@pytest.mark.parametrize("case", PATHS)
def test_loras(execute: Callable[..., Any], around: SimpleNamespace, case: str) -> None:
    before = snapshot(around.root)
    load = {"model": None, "strength": 1.0, "mode": "merge"}
    assert refused_or_inside(lambda: execute("LoadLoRA", lora_name=PATHS[case], **load)) == REFUSED
    assert snapshot(around.root) == before


@pytest.mark.parametrize("name", ["../mine.safetensors", "./mine.safetensors", "/mine.safetensors", "pipe.safetensors"])
def test_only_a_name_of_the_list_is_a_lora(around: SimpleNamespace, pack: ModuleType, name: str) -> None:
    """ComfyUI's own lookup would turn the first three into mine.safetensors, and opening a pipe would wait forever."""
    from ideogram4_lora_trainer.nodes.load_lora import lora_path

    assert lora_path("mine.safetensors").name == "mine.safetensors"
    with pytest.raises(UserError, match="There is no LoRA"):
        lora_path(name)


# ---- values of another kind, and choices that are in no list ---------------------------------------------------

TEXT_INPUTS: dict[str, Callable[[Callable[..., Any], Any], Any]] = {
    "dataset": lambda run, value: run("LoadDataset", dataset=value, default_caption="", force_default_caption=False),
    "default_caption": lambda run, value: run(
        "LoadDataset", dataset="fine.zip", default_caption=value, force_default_caption=False
    ),
    "url": lambda run, value: run(
        "LoadDataset", dataset="fine.zip", default_caption="", force_default_caption=False, url=value
    ),
    "lora_name": lambda run, value: run("LoadLoRA", model=None, lora_name=value, strength=1.0, mode="auto"),
    "filename_prefix": save,
    "resolution": lambda run, value: run("ResolveResolution", dataset=None, resolution=value, custom="64x64"),
    "custom": lambda run, value: run("ResolveResolution", dataset=None, resolution="custom", custom=value),
}
CHOICES: dict[str, Callable[[Callable[..., Any], Any], Any]] = {
    "mode": lambda run, value: run("LoadLoRA", model=None, lora_name="mine.safetensors", strength=1.0, mode=value),
    "output_lora_format": lambda run, value: save(run, "loras/a", value),
    "caption_boxes": lambda run, value: run(
        "EncodeDataset", dataset=None, width=64, height=64, vae=None, clip=None, model=None, caption_boxes=value
    ),
    "resolution": TEXT_INPUTS["resolution"],
}
NOT_LISTED = ["", " ", "Auto ", "merge\0", "../auto", "comfy + fal + diffusers", "\ud800", "a" * 5_000, "move"]


@pytest.mark.parametrize("kind", NOT_TEXT)
@pytest.mark.parametrize("name", [*TEXT_INPUTS, *(name for name in CHOICES if name not in TEXT_INPUTS)])
def test_values_that_are_no_text(execute: Callable[..., Any], around: SimpleNamespace, name: str, kind: str) -> None:
    before = snapshot(around.root)
    call = (TEXT_INPUTS | CHOICES)[name]
    assert refused_or_inside(lambda: call(execute, NOT_TEXT[kind])) == REFUSED
    assert snapshot(around.root) == before


@pytest.mark.parametrize("value", NOT_LISTED, ids=lambda value: ascii(value[:20]))
@pytest.mark.parametrize("name", CHOICES)
def test_values_of_no_list(execute: Callable[..., Any], around: SimpleNamespace, name: str, value: str) -> None:
    before = snapshot(around.root)
    assert refused_or_inside(lambda: CHOICES[name](execute, value)) == REFUSED
    assert snapshot(around.root) == before


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), 10.1, -10.1, "1", None, True])
def test_strengths_that_would_blacken_the_picture(
    execute: Callable[..., Any], around: SimpleNamespace, strength: Any
) -> None:
    load = {"model": None, "lora_name": "mine.safetensors", "mode": "merge"}
    with pytest.raises(UserError, match="strength must be a number from -10 to 10"):
        execute("LoadLoRA", strength=strength, **load)


def test_there_are_enough_of_them() -> None:
    assert len(set(PATHS.values())) == len(PATHS) >= 50
    assert len(PATHS) - len(PREFIXES_KEPT_INSIDE) >= 40
