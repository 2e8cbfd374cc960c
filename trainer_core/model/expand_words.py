"""What the text encoder is told when it writes a caption, in the chat format that Qwen3-VL was trained with.

Whoever wrote the prompt is not in charge of the conversation: the marks of the chat format are broken up in it. Boxes
are asked for as Qwen3-VL writes them, x before y; `expand_caption` turns them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

INSTRUCTION = """\
You write captions for a model that makes pictures. From the user's prompt you make one caption, a JSON object, and \
answer with that object alone, on one line: no Markdown, no words before or after it.

Keys, always in this order:
{"high_level_description": the whole picture in one or two sentences, "style_description": {...}, \
"compositional_deconstruction": {"background": what is behind everything, "elements": [...]}}

style_description of a photograph: \
{"aesthetics": "...", "lighting": "...", "photo": "...", "medium": "photograph", "color_palette": [...]}
style_description of anything else: \
{"aesthetics": "...", "lighting": "...", "medium": "...", "art_style": "...", "color_palette": [...]}

An element that is seen: {"type": "obj", "bbox": [x_min, y_min, x_max, y_max], "desc": "..."}
An element that is read: {"type": "text", "bbox": [x_min, y_min, x_max, y_max], "text": "...", "desc": "..."}

Rules:
- Keep all that the prompt says: who and what, how many, colours, places, style. Add only what it leaves open.
- Each text in quotation marks is lettering in the picture: one element of type text, with exactly these characters in \
"text", neither translated nor corrected, and in "desc" how and where it is written. Invent no other lettering.
- bbox: whole numbers from 0 to 1000, thousandths of the picture's width (x) and height (y) from its top left corner.
- color_palette: at most 8 colours such as "#A0B1C2".
- Elements from back to front. Write in English, but for the lettering.
- {extent}"""

BRIEF = "Be brief: at most 8 elements, one sentence each."
DETAILED = "Be thorough: as many elements as the picture needs, at most 20, two or three sentences each."

REVISION = """\
Compare your caption with the prompt and write it again, better:
- Put in what the prompt says and the caption lacks; take out what contradicts the prompt.
- Say more of each element: material, colour, shape, posture, light on it, what it touches.
- Add the smaller things that belong to such a picture, each with its box.
- Correct boxes that do not fit their description or the shape of the picture.
- Keep all lettering as it is.
Answer with the whole JSON object alone, on one line."""


def ask(prompt: str, quoted: Sequence[str], width: int, height: int, extent: str) -> str:
    """The conversation up to the point where the text encoder answers with a caption of `prompt`.

    `quoted` are the texts that must be kept, `extent` one of `BRIEF` and `DETAILED`.
    """
    request = f"The picture is {shape(width, height)}.\nPrompt: {prompt}"
    if quoted:
        request += f"\nLettering to keep: {json.dumps(quoted, ensure_ascii=False)}"
    return (
        _turn("system", INSTRUCTION.replace("{extent}", extent))
        + _turn("user", _harmless(request))
        + "<|im_start|>assistant\n"
    )


def ask_again(conversation: str, draft: str) -> str:
    """`conversation`, answered with `draft`, up to the point where the text encoder answers with a better one."""
    return f"{conversation}{_harmless(draft)}<|im_end|>\n{_turn('user', REVISION)}<|im_start|>assistant\n"


def shape(width: int, height: int) -> str:
    """The shape of a picture in words. Not its pixels, in which boxes would then be counted."""
    if width == height:
        return "square"
    if width > height:
        return f"landscape, {width / height:.2f} times as wide as high"
    return f"portrait, {height / width:.2f} times as high as wide"


def _turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def _harmless(text: str) -> str:
    """`text` without what ComfyUI's tokenizer takes for a mark of the chat, an embedding file, or no text at all."""
    text = text.encode("utf-8", "replace").decode()
    return text.replace("<|", "< |").replace("embedding:", "embedding :")
