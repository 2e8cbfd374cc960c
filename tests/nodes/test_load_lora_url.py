"""The address on the Load LoRA node: checked by ComfyUI's own validation, downloaded, used, and removed."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import folder_paths
import pytest
from foreign_loras import fused_lora
from ideogram4_lora_trainer.trainer_core.errors import (
    LoraMismatch,
    LoraUnreadable,
    RemoteRefused,
    SettingsError,
    UserError,
    WrongModel,
)
from ideogram4_lora_trainer.trainer_core.remote import fetch
from internet import PUBLIC, Internet, ok, redirect, running_internet
from safetensors.torch import save, save_file

URL = "https://dataset.test/style.safetensors"


def lora_bytes(width: int) -> bytes:
    return save(fused_lora("fal", {"layers.0.attention.o": (width, width)})[0])


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """ComfyUI's temp folder, which is not there yet, and one folder of LoRAs with one file."""
    temp, loras = tmp_path / "comfy" / "temp", tmp_path / "loras"
    loras.mkdir()
    save_file(fused_lora("comfy", {"layers.0.attention.o": (8, 8)})[0], loras / "mine.safetensors")
    monkeypatch.setattr(folder_paths, "temp_directory", str(temp))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(loras)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return SimpleNamespace(temp=temp, loras=loras)


@pytest.fixture
def internet(
    tmp_path: Path, folders: SimpleNamespace, pack: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Internet]:
    from ideogram4_lora_trainer.nodes import load_lora

    with running_internet(tmp_path) as internet:
        monkeypatch.setattr(load_lora, "fetch", functools.partial(fetch, network=internet.network))
        yield internet


@pytest.fixture
def load(pack: ModuleType) -> Callable[..., Any]:
    from ideogram4_lora_trainer.nodes import Ideogram4LoadLoRA

    def run(**inputs: Any) -> Any:
        node = Ideogram4LoadLoRA.PREPARE_CLASS_CLONE(None)
        return node.EXECUTE_NORMALIZED(**{"lora_name": "none", "strength": 1.0, "mode": "auto", "url": "", **inputs})

    return run


@pytest.fixture
def verdict(pack: ModuleType, folders: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What ComfyUI's validation says about the node's own inputs; "" where it lets the graph run."""
    import execution
    from ideogram4_lora_trainer.nodes import Ideogram4LoadLoRA

    import nodes

    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "Ideogram4LoadLoRA", Ideogram4LoadLoRA)

    def validate(**inputs: Any) -> str:
        loader = {"unet_name": "any", "weight_dtype": "default"}
        graph = {
            "1": {"class_type": "UNETLoader", "inputs": loader},
            "2": {"class_type": "PrimitiveString", "inputs": {"value": URL}},
            "3": {
                "class_type": "Ideogram4LoadLoRA",
                "inputs": {"model": ["1", 0], "strength": 1.0, "mode": "auto", **inputs},
            },
        }
        known = {"1": (True, [], "1"), "2": (True, [], "2")}
        _, errors, _ = asyncio.run(execution.validate_inputs("id", graph, "3", known))
        return "; ".join(f"{error['message']}: {error['details']}" for error in errors)

    import comfy_extras.nodes_primitive as primitive

    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "PrimitiveString", primitive.String)
    return validate


# ---- before it runs ------------------------------------------------------------------------------------------


def test_with_an_address_the_name_does_not_matter(verdict: Callable[..., str], folders: SimpleNamespace) -> None:
    assert verdict(lora_name="mine.safetensors") == ""
    for url in ({}, {"url": ""}, {"url": "  "}):
        assert "There is no LoRA 'gone.safetensors'" in verdict(lora_name="gone.safetensors", **url)
    (folders.loras / "mine.safetensors").unlink()
    folder_paths.filename_list_cache.clear()
    assert "There is no LoRA" in verdict(lora_name="none")
    for name in ("none", "", "mine.safetensors", "../x", None, 7):
        assert verdict(lora_name=name, url=URL) == ""
        assert verdict(lora_name=name, url=["2", 0]) == ""


def test_a_file_of_a_moment_ago_is_accepted(verdict: Callable[..., str], folders: SimpleNamespace) -> None:
    (folders.loras / "new.safetensors").write_bytes(lora_bytes(8))
    folder_paths.filename_list_cache.clear()
    assert verdict(lora_name="new.safetensors") == ""


def test_without_any_file_the_list_offers_a_word_for_it(pack: ModuleType, folders: SimpleNamespace) -> None:
    from ideogram4_lora_trainer.nodes import Ideogram4LoadLoRA

    def options() -> list[str]:
        return next(i.options for i in Ideogram4LoadLoRA.define_schema().inputs if i.id == "lora_name")

    assert options() == ["mine.safetensors"]
    (folders.loras / "mine.safetensors").unlink()
    folder_paths.filename_list_cache.clear()
    assert options() == ["none"]


def test_the_same_address_is_not_fetched_again(pack: ModuleType, folders: SimpleNamespace) -> None:
    from ideogram4_lora_trainer.nodes import Ideogram4LoadLoRA

    stamp = Ideogram4LoadLoRA.fingerprint_inputs
    assert stamp("gone", URL) == stamp("none", URL) != stamp("gone", URL + "?v=2")
    assert stamp("mine.safetensors", " ") == stamp("mine.safetensors") != stamp("mine.safetensors", URL)
    before = stamp("mine.safetensors")
    (folders.loras / "mine.safetensors").write_bytes(b"another")
    assert stamp("mine.safetensors") != before


# ---- while it runs -------------------------------------------------------------------------------------------


def test_the_lora_behind_an_address_is_applied_as_the_file_would_be(
    load: Any, internet: Internet, folders: SimpleNamespace, tiny_model: Callable[..., Any]
) -> None:
    model = tiny_model("bf16")
    width = model.model.diffusion_model.layers[0].attention.o.in_features
    internet.answers |= {"/style.safetensors": redirect("/signed?x=1"), "/signed?x=1": ok(lora_bytes(width))}
    (folders.loras / "file.safetensors").write_bytes(lora_bytes(width))
    folder_paths.filename_list_cache.clear()

    remote, local = load(model=model, url=f" {URL} "), load(model=model, lora_name="file.safetensors")
    patched = [applied.result[0].patches for applied in (remote, local)]
    assert patched[0].keys() == patched[1].keys() and len(patched[0]) == 1
    assert internet.connected == [(PUBLIC, 443)] * 2
    assert folders.temp.is_dir() and list(folders.temp.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (ok(b"<!DOCTYPE html>"), LoraUnreadable, "style.safetensors: downloaded.safetensors is cut off or is not"),
        (ok(b"PK\x03\x04" + bytes(100)), LoraUnreadable, "a pickled PyTorch file"),
        (ok(save({})), LoraUnreadable, "style.safetensors: downloaded.safetensors"),
        (ok(lora_bytes(24)), LoraMismatch, "style.safetensors: downloaded.safetensors"),
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", RemoteRefused, "answered with 401"),
        (redirect("https://inside.test/"), RemoteRefused, "https://inside.test/ leads to a private.*models/loras"),
    ],
)
def test_what_is_no_lora_for_this_model_is_refused_and_removed(
    load: Any,
    internet: Internet,
    folders: SimpleNamespace,
    tiny_model: Callable[..., Any],
    answer: bytes,
    error: type[UserError],
    words: str,
) -> None:
    internet.addresses["inside.test"] = ["10.0.0.1"]
    internet.answers["/style.safetensors?token=secret"] = answer
    with pytest.raises(error, match=words) as raised:
        load(model=tiny_model("bf16"), url=f"{URL}?token=secret")
    assert "secret" not in str(raised.value) and str(folders.temp) not in str(raised.value)
    assert list(folders.temp.iterdir()) == [] and {address for address, _ in internet.connected} == {PUBLIC}


@pytest.mark.parametrize(
    "url", ["http://dataset.test/x", "https://inside.test/x", "data:;base64,AAAA", "mine.safetensors", "file:///x"]
)
def test_addresses_that_are_refused(load: Any, internet: Internet, folders: SimpleNamespace, url: str) -> None:
    internet.addresses["inside.test"] = ["192.168.0.9"]
    with pytest.raises(RemoteRefused, match="models/loras"):
        load(model=None, lora_name="mine.safetensors", url=url)
    assert internet.connected == [] and list(folders.temp.iterdir()) == []


def test_more_than_the_limit_is_not_downloaded(load: Any, internet: Internet, folders: SimpleNamespace) -> None:
    internet.answers["/style.safetensors"] = ok(b"x", f"Content-Length: {8 * 2**30 + 1}")
    with pytest.raises(RemoteRefused, match="larger than 8,589,934,592 bytes"):
        load(model=None, url=URL)
    assert list(folders.temp.iterdir()) == []


def test_the_model_is_judged_and_cancelling_leaves_nothing(
    load: Any, internet: Internet, folders: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy.model_management import InterruptProcessingException, interrupt_current_processing

    internet.answers["/style.safetensors"] = ok(lora_bytes(8))
    with pytest.raises(WrongModel):
        load(model=None, url=URL)
    interrupt_current_processing()
    with pytest.raises(InterruptProcessingException):
        load(model=None, url=URL)
    assert list(folders.temp.iterdir()) == []


@pytest.mark.parametrize("url", [None, 7, ["x"], b"https://dataset.test/"])
def test_a_link_that_brings_no_text(load: Any, internet: Internet, url: Any) -> None:
    with pytest.raises(SettingsError, match="url must be text"):
        load(model=None, lora_name="mine.safetensors", url=url)
