"""run.json: everything that a run is made of but the tensors, so that it can be trained again without a graph.

It names the model's file and the encoded data and so needs neither images, VAE nor text encoder. The train node writes
it, `python trainer_core run.json` trains from it, and a person may edit it in between.
Covered: a file that is damaged, was edited wrongly or made by a stranger (links and pipes are not opened, its size is
limited, every value is checked, keys of encodings cannot lead out of their folder, only safetensors is opened as a
model). Not covered: whoever makes a run.json chooses which folders are read, and which one the LoRA is written to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import TrainSettings
from ..errors import SaveFailed, SettingsError, UserError
from ..storage import open_regular, replace_file

if TYPE_CHECKING:  # what they import takes seconds, and a wrong file should be told of at once
    from ..model.encode import TrainingData
    from .runs import RunPlace

log = logging.getLogger(__name__)

RUN_FILE = "run.json"
FORMAT = 1
"""Raised when an older version could not read what is written now."""
MAX_BYTES = 64 * 2**20
"""About thirty thousand images with captions of two thousand characters."""
MODEL_ENDINGS = (".safetensors", ".sft")
DTYPES = ("default", "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")
"""Of the weights, as loader nodes ask for them; `default` is what the file has."""

_GROUP, _NUMBERS, _ITEMS = "a group of entries", "a list of 128 numbers", "a list of images"
_SHAPE: Mapping[str, Any] = {
    "format": int,
    "run": {"name": str, "runs_folder": str, "loras_folder": str, "start_lora": str, "start_lora_file": str},
    "model": {"file": str, "weight_dtype": str, "fp8_optimizations": bool},
    "settings": _GROUP,
    "data": {
        "name": str,
        "width": int,
        "height": int,
        "cache": str,
        "projection": str,
        "default_caption": str,
        "vae_shift": _NUMBERS,
        "vae_scale": _NUMBERS,
        "items": _ITEMS,
    },
}
_ITEM = {"name": str, "caption": str, "latent_key": str, "text_key": str}
_WORDS = {int: "a whole number", str: "a text", bool: "true or false"}
_KEY = re.compile(r"[0-9a-f]{4,128}")


@dataclasses.dataclass(frozen=True)
class RunFile:
    """The contents of a run.json, all of them checked."""

    settings: TrainSettings
    run: Mapping[str, str]
    model: Mapping[str, Any]
    data: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """As it is written: one value a line, one image a line."""
        body = {
            "format": FORMAT,
            "run": self.run,
            "model": self.model,
            "settings": dataclasses.asdict(self.settings),
            "data": self.data,
        }
        # A lone surrogate, as in a file name that is not UTF-8, becomes the escape that JSON knows.
        return (_pretty(body, "") + "\n").encode("utf-8", "backslashreplace")

    def model_options(self) -> dict[str, Any]:
        """What ComfyUI's loader takes beside the file."""
        import torch

        dtype = self.model["weight_dtype"]
        options: dict[str, Any] = {} if dtype == "default" else {"dtype": getattr(torch, dtype)}
        return {**options, "fp8_optimizations": True} if self.model["fp8_optimizations"] else options

    def training_data(self) -> TrainingData:
        """The encoded data. Raises `SettingsError` when some of it is not there."""
        import torch

        from ..model.cache import EncodingCache
        from ..model.encode import EncodedItem, TrainingData
        from ..model.latents import LatentStatistics

        data = self.data
        cache = EncodingCache(Path(data["cache"]))
        items = tuple(EncodedItem(**item) for item in data["items"])
        missing = sum(item.latent_key not in cache or item.text_key not in cache for item in items)
        if missing:
            raise SettingsError(
                f"Of {len(items)} images, {missing} have no encoding in {cache.folder}. Encodings are made in ComfyUI: "
                "run the workflow there until training starts, or copy that folder and name it as cache in run.json."
            )
        statistics = [torch.tensor(data[name], dtype=torch.float32) for name in ("vae_shift", "vae_scale")]
        plain = {name: data[name] for name in ("width", "height", "projection", "default_caption", "name")}
        found = TrainingData(
            items=items, cache=cache, vae_statistics=LatentStatistics(*statistics), newly_encoded=0, **plain
        )
        shape, expected = tuple(found.raw_latent(0).shape[-2:]), (found.height // 16, found.width // 16)
        if shape != expected:
            raise SettingsError(
                f"The images are encoded at {16 * shape[1]}x{16 * shape[0]}, not at the {found.width}x{found.height} "
                "that run.json states. Another size has to be encoded in ComfyUI."
            )
        return found


# ---- writing -------------------------------------------------------------------------------------------------


def describe_run(patcher: Any, data: TrainingData, settings: TrainSettings, place: RunPlace) -> RunFile | None:
    """The run that is about to be trained; None, and a line in the log, where a file cannot say what is trained."""
    model = _model_source(patcher)
    statistics = data.vae_statistics
    run_file = model and RunFile(
        settings=settings,
        run={
            "name": place.name,
            "runs_folder": os.path.abspath(place.runs_folder),
            "loras_folder": os.path.abspath(place.loras_folder),
            "start_lora": place.start_lora,
            "start_lora_file": place.start_lora_file,
        },
        model=model,
        data={
            "name": data.name,
            "width": data.width,
            "height": data.height,
            "cache": os.path.abspath(data.cache.folder),
            "projection": data.projection,
            "default_caption": data.default_caption,
            "vae_shift": statistics.shift.tolist(),
            "vae_scale": statistics.scale.tolist(),
            "items": [dataclasses.asdict(item) for item in data.items],
        },
    )
    if not run_file:
        log.info("This run gets no %s: its model is not one safetensors file as ComfyUI's loader opens it.", RUN_FILE)
    return run_file or None


def write_run_file(folder: Path, run_file: RunFile | None) -> None:
    """Replace the run.json of a run that goes on, whole or not at all; None removes it. Raises `SaveFailed`."""
    path = folder / RUN_FILE
    try:
        if run_file is None:
            path.unlink(missing_ok=True)
            return
        with contextlib.suppress(SettingsError):
            before = read_run_file(path)
            # How it began is not said again by whoever goes on with it.
            here = {name: run_file.run[name] for name in ("runs_folder", "loras_folder")}
            run_file = dataclasses.replace(run_file, run={**before.run, **here})
            if before == run_file:
                return
        replace_file(path, [run_file.to_bytes()])
    except OSError as error:
        raise SaveFailed(f"{path} was not written: {error.strerror or error}.") from error


def _model_source(patcher: Any) -> dict[str, Any] | None:
    """How to load the connected model again; None when that would not give the same."""
    loader = patcher.cached_patcher_init
    if not loader or getattr(loader[0], "__name__", "") != "load_diffusion_model":
        return None
    path, options = loader[1][0], dict(*loader[1][1:2])
    dtype = str(options.pop("dtype", None) or "torch.default").removeprefix("torch.")
    fast = options.pop("fp8_optimizations", False)
    if options or patcher.patches or patcher.object_patches or dtype not in DTYPES:
        return None
    if not isinstance(path, str) or not path.endswith(MODEL_ENDINGS):
        return None
    return {"file": os.path.abspath(path), "weight_dtype": dtype, "fp8_optimizations": bool(fast)}


def _pretty(value: Any, indent: str) -> str:
    deeper = indent + " "
    if isinstance(value, Mapping):
        lines = [f"{deeper}{json.dumps(key)}: {_pretty(part, deeper)}" for key, part in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return "[\n" + ",\n".join(deeper + json.dumps(part, ensure_ascii=False) for part in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


# ---- reading -------------------------------------------------------------------------------------------------


def read_run_file(path: Path) -> RunFile:
    """Read and check a run.json. Raises `SettingsError` that names the file and what is wrong with it."""
    try:
        body = _parse(path)
        _check(body, _SHAPE, "")
        return _checked(body)
    except (OSError, ValueError, RecursionError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).rstrip(".")
        raise SettingsError(
            f"{path} cannot be used: {reason}. Correct it, or have it written anew by starting the run in ComfyUI."
        ) from error


def _parse(path: Path) -> dict[str, Any]:
    with open_regular(path, os.O_RDONLY) as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
    try:
        body = json.loads(text.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError("it is no text in UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON from line {error.lineno} on ({error.msg})") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(body, dict):
        raise ValueError("it holds no settings")
    if type(body.get("format")) is int and body["format"] > FORMAT:
        raise ValueError("it was written by a newer version of this node pack")
    return body


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no number")


def _check(values: Mapping[str, Any], shape: Mapping[str, Any], where: str) -> None:
    """Raise `ValueError` unless `values` has exactly the entries of `shape`, of its types."""
    for name in [*shape, *values]:
        if name not in values:
            raise ValueError(f"{where}{name} is missing")
        if name not in shape:
            raise ValueError(f"{ascii(where + name)[:100]} is not known")
    for name, kind in shape.items():
        value, what = values[name], where + name
        if kind is _NUMBERS:
            numbers = isinstance(value, list) and len(value) == 128 and all(type(n) in (int, float) for n in value)
            if not numbers or not all(abs(number) < 1e6 for number in value):
                raise ValueError(f"{what} is not {_NUMBERS}")
        elif kind is _ITEMS:
            _check_items(value, what)
        elif isinstance(kind, type):
            if type(value) is not kind:
                raise ValueError(f"{what} is not {_WORDS[kind]}")
        elif not isinstance(value, dict):
            raise ValueError(f"{what} is not {_GROUP}")
        elif kind is not _GROUP:
            _check(value, kind, f"{what}.")


def _check_items(value: Any, where: str) -> None:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where} is not {_ITEMS}")
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise ValueError(f"{where}[{index}] is not {_GROUP}")
        _check(item, _ITEM, f"{where}[{index}].")
        for name in ("latent_key", "text_key"):
            if not _KEY.fullmatch(item[name]):
                raise ValueError(f"{where}[{index}].{name} is not the key of an encoding")


def _checked(body: dict[str, Any]) -> RunFile:
    run, model, data = body["run"], body["model"], body["data"]
    paths = {
        "run.runs_folder": run["runs_folder"],
        "run.loras_folder": run["loras_folder"],
        "model.file": model["file"],
        "data.cache": data["cache"],
    }
    if run["start_lora_file"]:
        paths["run.start_lora_file"] = run["start_lora_file"]
    for name, path in paths.items():
        if not os.path.isabs(path) or "\0" in path:
            raise ValueError(f"{name} is not the full path of a file or folder")
    if not model["file"].endswith(MODEL_ENDINGS):
        raise ValueError(f"model.file is not a safetensors file (its name has to end in {' or '.join(MODEL_ENDINGS)})")
    if model["weight_dtype"] not in DTYPES:
        raise ValueError(f"model.weight_dtype is not one of {', '.join(DTYPES)}")
    if not (16 <= data["width"] <= 8192 and 16 <= data["height"] <= 8192):
        raise ValueError("data.width and data.height are not a size in pixels")
    if min(data["vae_scale"]) <= 0:
        raise ValueError("data.vae_scale holds a number that is not above zero")
    return RunFile(TrainSettings.from_mapping(body["settings"]), run, model, data)
