"""Which model files a request uses: those that it names, those of the settings, or the standard ones that are there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import PureWindowsPath  # which takes both slashes

import folder_paths
import pydantic

from ...trainer_core.paths import shown
from .access import Invalid
from .settings import ApiSettings

VARIANTS = ("fp8_scaled", "int8_convrot", "nvfp4_mixed", "nvfp4", "bf16")
"""Of what ComfyUI users have, the one that runs everywhere first."""
STANDARD = {
    "diffusion_model": [f"ideogram4_{variant}.safetensors" for variant in VARIANTS],
    "unconditional": [f"ideogram4_unconditional_{variant}.safetensors" for variant in VARIANTS],
    "text_encoder": ["qwen3vl_8b_fp8_scaled.safetensors", "qwen3vl_8b_nvfp4.safetensors", "qwen3vl_8b.safetensors"],
    "vae": ["flux2-vae.safetensors"],
}
FOLDERS = {
    "diffusion_model": "diffusion_models",
    "unconditional": "diffusion_models",
    "text_encoder": "text_encoders",
    "vae": "vae",
}


class ModelFiles(pydantic.BaseModel):
    """File names as ComfyUI's loaders list them."""

    model_config = pydantic.ConfigDict(extra="forbid")

    diffusion_model: str | None = None
    unconditional: str | None = None
    text_encoder: str | None = None
    vae: str | None = None


@dataclasses.dataclass(frozen=True)
class BaseModels:
    """File names as ComfyUI's loaders list them. `unconditional` is "" where it is not needed."""

    diffusion_model: str
    unconditional: str
    text_encoder: str
    vae: str


def choose(wish: ModelFiles | None, settings: ApiSettings, *, unconditional: bool) -> BaseModels:
    """The files to use; `unconditional` says whether the unconditional model is needed too. Raises `Invalid`."""
    named = {kind: name for kind, name in (wish.model_dump() if wish else {}).items() if name}
    chosen = {kind: _one(kind, named, settings.models) for kind in STANDARD if kind != "unconditional"}
    twin = _one("unconditional", named, settings.models) if unconditional else ""
    return BaseModels(unconditional=twin, **chosen)


def _one(kind: str, named: Mapping[str, str], of_settings: Mapping[str, str]) -> str:
    there = listed(kind)
    if kind in named or kind in of_settings:
        wanted = named.get(kind, of_settings.get(kind, ""))
        if wanted in there:
            return wanted
        source = "" if kind in named else ", which is chosen in its settings under Ideogram 4 LoRA Trainer"
        message = f"ComfyUI has no file {shown(wanted)} in {FOLDERS[kind]}{source}. Use a name that its loader lists."
        raise Invalid.field(["models", kind], "model_not_found", message)
    found = standard_file(kind)
    if not found:
        message = (
            f"ComfyUI has none of {', '.join(STANDARD[kind])} in {FOLDERS[kind]}. Put one there, choose your own file "
            f"in ComfyUI's settings under Ideogram 4 LoRA Trainer, or name it in the request as models.{kind}."
        )
        raise Invalid.field(["models", kind], "model_not_found", message)
    return found


def standard_file(kind: str) -> str:
    """The standard file that is there, by the name that ComfyUI's loader lists, "" if there is none."""
    by_file = {PureWindowsPath(name).name: name for name in reversed(listed(kind))}
    return next((by_file[standard] for standard in STANDARD[kind] if standard in by_file), "")


def listed(kind: str) -> Sequence[str]:
    """The names that ComfyUI's loader lists."""
    return folder_paths.get_filename_list(FOLDERS[kind])
