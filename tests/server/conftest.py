"""ComfyUI's folders as a user of fal's contract has them, and inputs made into graphs there."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import folder_paths
import pytest
from fal_inputs import ID
from internet import running_internet

MODELS = {
    "diffusion_models": ["ideogram4_fp8_scaled", "ideogram4_unconditional_fp8_scaled"],
    "text_encoders": ["qwen3vl_8b_fp8_scaled"],
    "vae": ["flux2-vae"],
}
LORAS = ["ideogram4_00001", "fal/trainer_1", "a/same", "b/same", "deep/er/one", "v1.5", "style"]
LORAS += [f"ideogram/My Style_{number:05}" for number in (1, 2, 10)]
LORAS += [f"ideogram/My Style_00010{rest}" for rest in ("_fal", "_step_000500")] + ["ideogram/style_00001"]
PROMPT = "a red disc"


@pytest.fixture(scope="session")
def fal(pack: ModuleType) -> SimpleNamespace:
    """The modules under test, which can be imported once the pack is loaded."""
    from ideogram4_lora_trainer.server.api import access, endpoints, reports, settings, store
    from ideogram4_lora_trainer.server.fal import images, loras, sizes, source_image

    modules = (access, reports, endpoints, settings, store, images, loras, sizes, source_image)
    return SimpleNamespace(**{module.__name__.rpartition(".")[2]: module for module in modules})


@pytest.fixture
def place(tmp_path: Path, fal: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """ComfyUI's folders with empty files of the names that are needed, an internet of one server, and no requests."""
    for kind, names in {**MODELS, "loras": LORAS}.items():
        folder = tmp_path / ("output/loras" if kind == "loras" else kind)
        for name in names:
            path = folder / f"{name}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(folder)], {".safetensors", ".pt"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    for kind in ("input", "output"):
        (tmp_path / kind).mkdir(exist_ok=True)
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    with running_internet(tmp_path) as internet:
        internet.addresses["inside.test"] = ["10.0.0.1"]
        for module, name in ((fal.loras, "check_url"), (fal.source_image, "fetch")):
            monkeypatch.setattr(module, name, functools.partial(getattr(module, name), network=internet.network))
        yield SimpleNamespace(root=tmp_path, store=fal.store.Store(tmp_path / "api"), internet=internet)


@pytest.fixture
def build(fal: SimpleNamespace, place: SimpleNamespace) -> Callable[..., Any]:
    """`build(prompt=..., ...)` -> Job; with an image_url it is image to image."""

    def run(**values: Any) -> Any:
        images = fal.images
        endpoint = images.IMAGE_TO_IMAGE if "image_url" in values else images.TEXT_TO_IMAGE
        context = fal.endpoints.Context(ID, "https://here", fal.settings.ApiSettings(), place.store)
        return asyncio.run(endpoint.build(endpoint.input(**{"prompt": PROMPT, **values}), context))

    return run


@pytest.fixture
def refused(fal: SimpleNamespace, build: Callable[..., Any], place: SimpleNamespace) -> Callable[..., Any]:
    """The place and the words of what an input is refused for; the words tell nothing of this machine."""

    def run(**values: Any) -> tuple[list[Any], str]:
        with pytest.raises(fal.access.Invalid) as raised:
            build(**values)
        (error,) = raised.value.errors
        assert str(place.root) in str(values) or str(place.root) not in error["msg"]
        return error["loc"], error["msg"]

    return run
