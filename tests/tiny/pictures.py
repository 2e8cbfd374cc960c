"""Small captioned pictures drawn by code: the demo's dataset and what the tiny base model is taught on."""

from __future__ import annotations

import random

from PIL import Image, ImageDraw

COLOURS = {
    "red": (214, 48, 49),
    "orange": (225, 122, 38),
    "yellow": (246, 211, 60),
    "green": (46, 160, 87),
    "blue": (36, 99, 201),
    "purple": (125, 60, 190),
    "black": (24, 24, 28),
    "white": (244, 244, 240),
}
SHAPES = ("circle", "square", "triangle", "cross")
PLACES = {"left": (0.3, 0.5), "right": (0.7, 0.5), "top": (0.5, 0.3), "bottom": (0.5, 0.7), "middle": (0.5, 0.5)}
WORDS = ("OPEN", "CAFE", "TAXI", "42", "HELLO")


def draw_picture(number: int, width: int, height: int) -> tuple[Image.Image, str]:
    """The RGB picture with this number and its caption; the same for every call and size."""
    rng = random.Random(number)
    sky, ground, ink = rng.sample(sorted(COLOURS), 3)
    shape = rng.choice(SHAPES)
    place = rng.choice(sorted(PLACES))
    word = rng.choice(WORDS) if rng.random() < 0.4 else None
    diameter = rng.uniform(0.35, 0.6)

    image = _gradient(COLOURS[sky], COLOURS[ground], width, height)
    draw = ImageDraw.Draw(image)
    _draw_shape(draw, shape, COLOURS[ink], PLACES[place], diameter, width, height)
    caption = f"a {ink} {shape} at the {place}, {sky} fading to {ground}"
    if word is not None:
        draw.text((width * 0.08, height * 0.72), word, fill=COLOURS["white"], font_size=max(8, height // 5))
        caption += f', with the word "{word}"'
    return image, caption


def _gradient(top: tuple[int, ...], bottom: tuple[int, ...], width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    for y in range(height):
        mix = y / max(1, height - 1)
        draw.line([(0, y), (width, y)], fill=tuple(round(a + (b - a) * mix) for a, b in zip(top, bottom, strict=True)))
    return image


def _draw_shape(
    draw: ImageDraw.ImageDraw,
    shape: str,
    colour: tuple[int, ...],
    place: tuple[float, float],
    diameter: float,
    width: int,
    height: int,
) -> None:
    radius = diameter * min(width, height) / 2
    x, y = place[0] * width, place[1] * height
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "square":
        draw.rectangle(box, fill=colour)
    elif shape == "triangle":
        draw.polygon([(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)], fill=colour)
    else:
        arm = radius / 3
        draw.rectangle((x - radius, y - arm, x + radius, y + arm), fill=colour)
        draw.rectangle((x - arm, y - radius, x + arm, y + radius), fill=colour)
