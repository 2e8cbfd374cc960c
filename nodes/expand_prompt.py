"""Node: a prompt made into a JSON caption by the connected text encoder."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..trainer_core.model.expand import OFF, QUALITIES, Expansion, expand_prompt
from ..trainer_core.model.sampling import MAX_SIDE, MIN_SIDE
from .feedback import show_text
from .values import as_choice, as_number, as_text

NONE = "none"
CHOICES = (NONE, *QUALITIES)


class Ideogram4ExpandPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Ideogram4ExpandPrompt",
            display_name="Ideogram 4 Expand Prompt",
            category="model/training/ideogram 4",
            description="Make a short prompt into a JSON caption, the kind of prompt that Ideogram 4 was trained on. "
            "The text encoder that is loaded anyway writes it; without a usable caption the prompt is used as it is.",
            search_aliases=["magic prompt", "prompt enhance", "json caption", "upsample prompt", "expand prompt"],
            inputs=[
                io.Clip.Input("clip", tooltip="The full Qwen3-VL 8B from Load CLIP with type ideogram4."),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="What the picture shows, in your words. Text in quotes is kept letter by letter. A JSON "
                    "caption is passed on unchanged.",
                ),
                io.Combo.Input(
                    "expansion",
                    options=list(CHOICES),
                    default="medium",
                    tooltip="none passes the prompt on as it is. medium writes a caption once. large writes more, and "
                    "then compares it with the prompt and writes it again, which takes several times as long.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=False,
                    tooltip="Another seed gives another caption of the same prompt.",
                ),
                io.Int.Input(
                    "width",
                    default=1024,
                    min=MIN_SIDE,
                    max=MAX_SIDE,
                    step=16,
                    tooltip="Width of the picture in pixels, for where things are placed.",
                ),
                io.Int.Input("height", default=1024, min=MIN_SIDE, max=MAX_SIDE, step=16, tooltip="Height in pixels."),
            ],
            outputs=[
                io.String.Output(display_name="prompt", tooltip="For CLIP Text Encode: a JSON caption, or the prompt.")
            ],
            hidden=[io.Hidden.unique_id],
            # So that the history has the words of a cached result too.
            has_intermediate_output=True,
        )

    @classmethod
    def execute(cls, clip: Any, prompt: str, expansion: str, seed: int, width: int, height: int) -> io.NodeOutput:
        as_text(prompt, "prompt")
        as_choice(expansion, "expansion", CHOICES)
        seed = int(as_number(seed, "seed", 0, 2**64 - 1))
        width, height = (
            int(as_number(value, name, MIN_SIDE, MAX_SIDE)) for value, name in ((width, "width"), (height, "height"))
        )
        if expansion == NONE:
            result = Expansion(prompt, False, OFF)
        else:
            result = expand_prompt(
                clip,
                prompt,
                quality=expansion,
                seed=seed,
                width=width,
                height=height,
                progress=lambda done, total, what: show_text(cls, f"Expanding the prompt ({expansion}): {what}"),
            )
        show_text(cls, result.note)
        # The history of a run tells by this which prompt its picture was made from.
        told = {"text": result.text, "expanded": result.expanded, "note": result.note}
        return io.NodeOutput(result.text, ui={"ideogram4_prompt": [told]})
