"""Load the trainer's core, and ComfyUI without its server, in a script of benchmarks/."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACK = "ideogram4_lora_trainer"
VERSIONS_OF = ("torch", "triton", "comfy-kitchen", "comfy-aimdo", "peft", "diffusers", "safetensors")


def comfyui_root() -> Path:
    return Path(os.environ.get("COMFYUI_ROOT") or ROOT / ".dev" / "ComfyUI")


def load_comfyui(device: str = "cpu", *, dynamic_vram: bool = False) -> None:
    """Put ComfyUI on sys.path and choose the device (`cpu` or `cuda`) before anything asks for it.

    `dynamic_vram` does what ComfyUI's main.py does by default on an NVIDIA card; it needs comfy-aimdo.
    """
    sys.path.insert(0, str(comfyui_root()))
    import comfy.options

    comfy.options.args_parsing = False
    from comfy.cli_args import args

    args.cpu = device == "cpu"
    # What ComfyUI takes on an NVIDIA card; elsewhere it would take a slower one that was written for old cards.
    args.use_pytorch_cross_attention = True
    if dynamic_vram:
        if args.cpu:
            raise RuntimeError("dynamic VRAM needs a GPU")
        _start_dynamic_vram()


def _start_dynamic_vram() -> None:
    import comfy_aimdo.control as control

    control.init()
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher

    devices = comfy.model_management.get_all_torch_devices()
    if not control.init_devices((device.index, 0) for device in devices):
        raise RuntimeError("comfy-aimdo did not start on this machine")
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True


def load_tiny_sizes() -> None:
    """Let ComfyUI's loader open Ideogram 4 files of any width."""
    spec = importlib.util.spec_from_file_location("tiny_pack", ROOT / "tests" / "tiny" / "tiny_pack" / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["tiny_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.register()


def core(name: str) -> Any:
    """A module of `trainer_core`, without the nodes."""
    if PACK not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert spec is not None
        sys.modules[PACK] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{PACK}.trainer_core.{name}")


def machine() -> str:
    """Architecture, number of cores and system."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def versions() -> str:
    """Python and the packages that matter here, ComfyUI included."""
    found = [f"Python {platform.python_version()}", f"ComfyUI {_comfyui_version()}"]
    for name in VERSIONS_OF:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _comfyui_version() -> str:
    file = comfyui_root() / "comfyui_version.py"
    return file.read_text(encoding="utf-8").split('"')[1] if file.is_file() else "unknown"
