"""A dataset to look at: large drawn pictures of several shapes, some with JSON captions, and one of each trouble."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image

SIZES = ((1280, 1024), (1024, 1280), (1152, 1152), (1536, 1024), (1024, 1024), (1200, 1400))
TROUBLES = ("10 too small.jpg", "11 uncaptioned.jpg", "12 again.jpg")


def showcase_zip(draw_picture: Any, count: int = 9, *, troubles: bool = True) -> bytes:
    """`count` sound pictures, and with `troubles` three that need attention.

    draw_picture: that of tests/tiny/pictures.py.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:

        def add(name: str, number: int, size: tuple[int, int], caption: str | None) -> None:
            image, drawn = draw_picture(number, *size)
            archive.writestr(name, _jpeg(image))
            if caption is not None:
                archive.writestr(str(Path(name).with_suffix(".txt")), caption or drawn)

        for index in range(count):
            image, words = draw_picture(index, *SIZES[index % len(SIZES)])
            as_json = _json_caption(words) if index % 2 else ""
            add(f"{index + 1:02} shape.jpg", index, image.size, as_json)
        if troubles:
            add(TROUBLES[0], 40, (640, 480), "")
            add(TROUBLES[1], 41, (1024, 1024), None)
            add(TROUBLES[2], 2, SIZES[2], "")
    return buffer.getvalue()


def _json_caption(words: str) -> str:
    """As the schema wants it, with a box around where the shape is."""
    place = next(place for place in BOXES if f"at the {place}" in words)
    elements = [{"type": "obj", "bbox": BOXES[place], "desc": words.split(" at the")[0]}]
    body = {
        "high_level_description": words,
        "style_description": {
            "aesthetics": "flat, bright",
            "lighting": "even",
            "medium": "digital drawing",
            "art_style": "plain shapes",
        },
        "compositional_deconstruction": {"background": words.split(", ")[1], "elements": elements},
    }
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)


BOXES = {
    "left": [250, 50, 750, 550],
    "right": [250, 450, 750, 950],
    "top": [50, 250, 550, 750],
    "bottom": [450, 250, 950, 750],
    "middle": [250, 250, 750, 750],
}


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def on_tiny_models(
    workflow: dict[str, Any], *, steps: int, every: int, prompts: tuple[str, ...], preview_px: int = 64
) -> dict[str, Any]:
    """The example "Train a LoRA and watch it" (UI format) at a size that a CPU trains in seconds."""
    for node in workflow["nodes"]:
        values = node.get("widgets_values", [])
        match node["type"], node.get("title", ""):
            case "UNETLoader", title:
                twin = "unconditional_" if "Unconditional" in title else ""
                values[0] = f"ideogram4_tiny_{twin}fp8_scaled.safetensors"
            case "CLIPLoader", _:
                values[0] = "qwen3vl_tiny.safetensors"
            case "VAELoader", _:
                values[0] = "flux2_tiny_vae.safetensors"
            case "Ideogram4ResolveResolution", _:
                values[:] = ["custom", "64x64"]
            case "Ideogram4Previews", _:
                values[:] = ["\n".join(prompts), preview_px, preview_px, "turbo", every, 0]
            case "Ideogram4TrainLoRA", _:
                values[:4] = [steps, 1e-3, 16, 0]
        node["properties"].pop("models", None)
    return workflow
