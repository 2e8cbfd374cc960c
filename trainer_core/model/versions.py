"""Versions of everything that decides what a run computes."""

from __future__ import annotations

import platform

import comfyui_version
import peft
import torch

from .. import __version__


def versions() -> dict[str, str]:
    """Program to version, for file headers and run records."""
    return {
        "ideogram4-lora-trainer": __version__,
        "ComfyUI": comfyui_version.__version__,
        "torch": torch.__version__,
        "peft": peft.__version__,
        "python": platform.python_version(),
    }
