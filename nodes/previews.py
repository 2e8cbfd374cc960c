"""Node: what pictures are made with a LoRA, while it is trained or to compare it."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io

from ..trainer_core.errors import SettingsError
from ..trainer_core.model.sampling import MAX_SIDE, MIN_SIDE, PRESETS, PictureSettings, encode_prompt
from ..trainer_core.training.previews import PreviewSettings
from .types import PreviewsSocket
from .values import as_choice, as_number, as_text

MAX_PROMPTS = 8
DEFAULT_PROMPT = "A lighthouse on a rocky shore at dusk."


class Ideogram4Previews(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Ideogram4Previews",
            display_name="Ideogram 4 Previews",
            category="model/training/ideogram 4",
            description="Pictures that show what a LoRA does: made while it is trained, or to compare strengths and "
            "steps. Each is what ComfyUI's own graph makes with these values.",
            search_aliases=["sample images", "validation prompts", "training samples", "preview prompts"],
            inputs=[
                io.Clip.Input("clip", tooltip="Qwen3-VL 8B from Load CLIP with type ideogram4."),
                io.Vae.Input("vae", tooltip="The FLUX.2 VAE (flux2-vae.safetensors)."),
                io.String.Input(
                    "prompts",
                    default=DEFAULT_PROMPT,
                    multiline=True,
                    tooltip=f"One prompt a line, {MAX_PROMPTS} at most; a JSON caption may go over several lines. Word "
                    "them like your captions, and add one that has nothing to do with them.",
                ),
                io.Int.Input(
                    "width", default=1024, min=MIN_SIDE, max=MAX_SIDE, step=16, tooltip="Width of each in pixels."
                ),
                io.Int.Input(
                    "height", default=1024, min=MIN_SIDE, max=MAX_SIDE, step=16, tooltip="Height of each in pixels."
                ),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="turbo",
                    tooltip="Steps of sampling: turbo 12, default 20, quality 48. By count of operations a guided "
                    "turbo picture costs as much as about seven training steps of its size.",
                ),
                io.Int.Input(
                    "every",
                    default=250,
                    min=0,
                    max=40_000,
                    tooltip="Training steps between two rounds of pictures; also made before step 1 and at the end. 0: "
                    "only when Preview now is pressed. Ignored when comparing.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=False,
                    tooltip="Of the noise that pictures begin with, the same for all, so that they can be compared.",
                ),
                io.Model.Input(
                    "unconditional",
                    optional=True,
                    tooltip="The unconditional Ideogram 4 model, for guidance as in ComfyUI's own graph (7, then 3 for "
                    "the last 30 %). Without it pictures are made without guidance and look plainer than they will.",
                ),
            ],
            outputs=[PreviewsSocket.Output(display_name="previews", tooltip="Connect to the train or compare node.")],
        )

    @classmethod
    def execute(
        cls,
        clip: Any,
        vae: Any,
        prompts: str,
        width: int,
        height: int,
        preset: str,
        every: int,
        seed: int,
        unconditional: Any | None = None,
    ) -> io.NodeOutput:
        texts = split_prompts(as_text(prompts, "prompts"))
        pictures = PictureSettings(
            prompts=texts,
            conditionings=tuple(encode_prompt(clip, text) for text in texts),
            vae=vae,
            unconditional=unconditional,
            width=_size(width, "width"),
            height=_size(height, "height"),
            preset=as_choice(preset, "preset", PRESETS),
            seed=int(as_number(seed, "seed", 0, 2**64 - 1)),
        )
        return io.NodeOutput(PreviewSettings(pictures=pictures, every=int(as_number(every, "every", 0, 40_000))))


def _size(value: int, name: str) -> int:
    return int(as_number(value, name, MIN_SIDE, MAX_SIDE)) // 16 * 16


def split_prompts(text: str) -> tuple[str, ...]:
    """The prompts in a text: one a line, but a JSON object is one prompt however many lines it has.

    Each is kept as it was written, without the space around it. Raises `SettingsError` for none and for too many.
    """
    prompts = []
    rest = text.strip()
    while rest:
        end = _json_end(rest) or len(rest.split("\n", 1)[0])
        prompts.append(rest[:end].strip())
        rest = rest[end:].strip()
    if not prompts:
        raise SettingsError("prompts is empty. Write at least one prompt, in a line of its own.")
    if len(prompts) > MAX_PROMPTS:
        raise SettingsError(f"There are {len(prompts)} prompts, and at most {MAX_PROMPTS} can be used. Remove some.")
    return tuple(prompts)


def _json_end(text: str) -> int:
    """Where the JSON object that `text` begins with ends, if its line ends with it; 0 if it begins with none."""
    if not text.startswith("{"):
        return 0
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return 0
    return 0 if text[end:].split("\n", 1)[0].strip() else end
