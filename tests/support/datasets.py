"""Small datasets, drawn in code."""

from __future__ import annotations

import io
import zipfile

from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "orange", "purple", "teal", "black", "yellow")


def picture(index: int, size: tuple[int, int] = (72, 68)) -> bytes:
    """A PNG of a coloured disc and bar whose place depends on the index."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    x, y = 6 + 7 * index % 30, 10 + 11 * index % 24
    draw.ellipse((x, y, x + 26, y + 26), fill=COLOURS[index % len(COLOURS)])
    draw.rectangle((0, size[1] - 10, size[0] // 2 + 3 * index, size[1]), fill=COLOURS[(index + 3) % len(COLOURS)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def dataset_zip(count: int = 3, *, captions: bool = True, size: tuple[int, int] = (72, 68)) -> bytes:
    """A zip of `count` pictures with captions of different length."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for index in range(count):
            archive.writestr(f"set/{index:02}.png", picture(index, size))
            if captions:
                words = " and a bar" * (index % 3)
                archive.writestr(f"set/{index:02}.txt", f"a {COLOURS[index % len(COLOURS)]} disc{words}")
    return buffer.getvalue()
