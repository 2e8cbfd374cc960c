"""Load the trainer's core, and ComfyUI without its server, in a script of benchmarks/."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACK = "ideogram4_lora_trainer"


def load_comfyui(device: str = "cpu") -> None:
    """Put ComfyUI on sys.path and choose the device (`cpu` or `cuda`) before anything asks for it."""
    sys.path.insert(0, os.environ.get("COMFYUI_ROOT") or str(ROOT / ".dev" / "ComfyUI"))
    import comfy.options

    comfy.options.args_parsing = False
    from comfy.cli_args import args

    args.cpu = device == "cpu"


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
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
