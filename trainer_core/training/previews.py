"""Pictures of the LoRA while it is trained: every so many steps, and when the user asks for them.

    <run>/previews/step_000100_00.png     step 100, first prompt; step 0 is the base model
    <run>/previews/step_000100_00.jpg     the same, small

A preview is the picture that the LoRA file of this step gives in ComfyUI's text-to-image graph. Whatever goes wrong
with one is told, and training goes on.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import UserError
from ..lora_files import LoraWeights, export_lora, parse_lora
from ..model import host
from ..model.network import Network
from ..model.sampling import PictureSettings, check_parts, sample_picture
from ..pictures import caption_strip
from ..storage import replace_file, require_room
from .run_log import RunLog

log = logging.getLogger(__name__)

FOLDER = "previews"
Weights: TypeAlias = Callable[[], dict[str, LoraWeights]]
UNGUIDED = "No guidance: the unconditional model is not connected"
THUMB_PX = 320
_GIVE_UP_AFTER = 2
"""Failures in a row after which previews are switched off, since each costs time."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PreviewSettings:
    """What pictures are made during training, and when."""

    pictures: PictureSettings
    every: int
    """Steps between two rounds; also made at the beginning and the end. 0: only when asked for."""


def preview_file(step: int, prompt: int) -> str:
    """Path of a preview inside its run's folder, with forward slashes."""
    return f"{FOLDER}/step_{step:06}_{prompt:02}.png"


def preview_thumb(step: int, prompt: int) -> str:
    """Path of its small copy, for pages that show many."""
    return f"{FOLDER}/step_{step:06}_{prompt:02}.jpg"


class Previews:
    """Makes the previews of a run; never due without settings."""

    def __init__(self, settings: PreviewSettings | None, patcher: Any, log: RunLog) -> None:
        """Raises `WrongModel`, `WrongVae` and `WrongTextEncoder`: better before training than after its first hour."""
        self._settings, self._patcher, self._log = settings, patcher, log
        self._failures = 0
        if settings:
            check_parts(settings.pictures, patcher)

    @property
    def count(self) -> int:
        """Pictures of a round."""
        return len(self._settings.pictures.prompts) if self._settings else 0

    def announce(self) -> None:
        """Tell the journal what the pictures will be of."""
        if self._settings:
            pictures = self._settings.pictures
            names = ("prompts", "width", "height", "preset", "seed", "guided")
            about = {name: getattr(pictures, name) for name in names}
            self._log.record("previews", **about, every=self._settings.every)

    def due(self, step: int, *, last: bool = False, asked: bool = False) -> bool:
        """Whether to make a round after `step` steps."""
        if self._settings is None:
            if asked:
                self._log.note("There is nothing to preview: connect Ideogram 4 Previews to the train node.")
            return False
        if asked:
            self._failures = 0
            return True
        every = self._settings.every
        return self._failures < _GIVE_UP_AFTER and every > 0 and (last or step % every == 0)

    def make(
        self,
        network: Network,
        run_folder: Path | None,
        step: int,
        weights: Weights,
        *,
        last: bool = False,
        leave_bytes: int = 0,
    ) -> bool:
        """A round of pictures with the LoRA of `weights` as its file would hold it; without one where it has no layers.
        After the `last` one the network is not used any more, so its model stays where sampling left it. So many bytes
        of the disk are left for checkpoints. Returns whether all pictures were made.

        Raises ComfyUI's interrupt, and out of memory where the model finds no room on the device any more.
        """
        if self._settings is None or run_folder is None or not run_folder.is_dir():
            return False
        with network.lent(not last):
            problem = self._sample(self._settings.pictures, run_folder, step, weights, leave_bytes)
        self._failures = self._failures + 1 if problem else 0
        if problem:
            end = "Training goes on."
            if self._failures >= _GIVE_UP_AFTER:
                end = "Training goes on without any more of them; Preview now tries again."
            self._log.note(f"The previews of step {step} were skipped: {problem} {end}")
        return not problem

    def _sample(
        self, pictures: PictureSettings, run_folder: Path, step: int, weights: Weights, leave_bytes: int
    ) -> str:
        """Make the round. Returns what went wrong, "" for nothing."""
        try:
            require_room(run_folder, leave_bytes, "The next checkpoint beside previews")
            modules = weights()
            as_saved = parse_lora(export_lora(modules, "comfy"), name="The LoRA so far").modules if modules else {}
            for prompt in range(len(pictures.prompts)):
                started = time.monotonic()
                picture = sample_picture(self._patcher, pictures, prompt, modules=as_saved)
                if not pictures.guided:
                    picture = caption_strip(picture, UNGUIDED)
                replace_file(run_folder / preview_thumb(step, prompt), [_small_jpeg(picture)])
                replace_file(run_folder / preview_file(step, prompt), [_png(picture, pictures, step, prompt)])
                seconds = round(time.monotonic() - started, 3)
                self._log.record("preview", step=step, prompt=prompt, seconds=seconds)
        except UserError as error:
            return str(error)
        except Exception as error:
            # Boundary with ComfyUI's sampling, where anything may fail: no preview is worth a run.
            if host.is_interrupt(error):
                raise
            if not host.is_out_of_memory(error):
                log.warning("A preview failed.", exc_info=True)
                return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no words'}."
        else:
            return ""
        # Outside of the handler, because the exception keeps every tensor of its frames alive.
        host.empty_cache()
        size = f"{pictures.width}x{pictures.height}"
        return f"a picture of {size} does not fit into the device's memory beside training. Choose a smaller size."


def _png(picture: np.ndarray, pictures: PictureSettings, step: int, prompt: int) -> bytes:
    info = PngInfo()
    about = {"prompt text": pictures.prompts[prompt], "seed": pictures.seed, "preset": pictures.preset, "step": step}
    for name, value in about.items():
        info.add_itxt(name, str(value).encode("utf-8", "replace").decode())
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "PNG", pnginfo=info, compress_level=4)
    return encoded.getvalue()


def _small_jpeg(picture: np.ndarray) -> bytes:
    image = Image.fromarray(picture)
    image.thumbnail((THUMB_PX, THUMB_PX))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=85)
    return encoded.getvalue()
