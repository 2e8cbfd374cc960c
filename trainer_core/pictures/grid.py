"""A labelled grid of pictures, and a strip of text below one.

Pictures are uint8 arrays of shape (height, width, 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .text import Font, fit_lines, font_for, label_text

Picture = NDArray[np.uint8]

_PAPER, _INK, _QUIET, _EMPTY, _LINE = (255, 255, 255), (28, 28, 30), (90, 90, 96), (242, 242, 244), (208, 208, 212)
_LINE_HEIGHT = 1.3
_ROW_LABEL_LINES, _COLUMN_LABEL_LINES, _TITLE_LINES, _CAPTION_LINES = 8, 3, 2, 3
_MIN_CELL = 64
MAX_SIDE_PX = 16_384
"""Larger grids are scaled down: JPEG and many viewers end at 16 to 32 thousand pixels."""


def labelled_grid(
    rows: Sequence[Sequence[Picture | None]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str = "",
    empty: str = "",
) -> Picture:
    """A picture of all pictures, with labels on the left and above and a title on top.

    Cells have one size, that of the largest picture; smaller ones are centred, never enlarged. Long labels are cut,
    and a JSON caption is shown by its summary. None, or a row that ends early, is an empty cell that says `empty`.
    Sides beyond `MAX_SIDE_PX` are avoided by making the pictures smaller.
    """
    columns = max([len(column_labels), *(len(row) for row in rows)], default=0)
    count = max(len(row_labels), len(rows))
    cell_w, cell_h = _cell_size(rows)
    shrink = min(1.0, MAX_SIDE_PX * 0.9 / max(1, cell_w * columns), MAX_SIDE_PX * 0.9 / max(1, cell_h * count))
    cell_w, cell_h = max(1, int(cell_w * shrink)), max(1, int(cell_h * shrink))
    size_px = _text_size(cell_w, cell_h)
    gap = max(4, size_px // 3)

    labels = [label_text(text) for text in (*row_labels, *[""] * (count - len(row_labels)))]
    heads = [label_text(text) for text in (*column_labels, *[""] * (columns - len(column_labels)))]
    row_texts = [_Block(text, size_px, _label_width(cell_w, size_px), _lines_in(cell_h, size_px)) for text in labels]
    column_texts = [_Block(text, size_px, cell_w, _COLUMN_LABEL_LINES) for text in heads]
    left = max([block.width for block in row_texts], default=0)
    left += 2 * gap if left else gap
    width = left + columns * (cell_w + gap)
    title_text = _Block(label_text(title), round(size_px * 1.25), width - 2 * gap, _TITLE_LINES)
    head = max([block.height for block in column_texts], default=0)
    top = gap + (title_text.height + 2 * gap if title_text.lines else 0)
    below = top + (head + gap if head else 0)

    canvas = Image.new("RGB", (max(width, 1), max(below + count * (cell_h + gap), 1)), _PAPER)
    draw = ImageDraw.Draw(canvas)
    title_text.draw(draw, gap, gap)
    for column, block in enumerate(column_texts):
        block.draw(draw, left + column * (cell_w + gap), top + head - block.height, centre_in=cell_w)
    for index in range(count):
        y = below + index * (cell_h + gap)
        row_texts[index].draw(draw, gap, y + max(0, cell_h - row_texts[index].height) // 2)
        cells = rows[index] if index < len(rows) else ()
        for column in range(columns):
            picture = cells[column] if column < len(cells) else None
            place = (left + column * (cell_w + gap), y)
            if picture is None:
                _draw_empty(draw, place, (cell_w, cell_h), empty, size_px)
            else:
                _paste(canvas, picture, place, (cell_w, cell_h), shrink)
    return np.asarray(canvas)


def caption_strip(picture: Picture, text: str) -> Picture:
    """`picture` with a strip below it that says `text`; unchanged when there is nothing to say.

    Picture: (height, width, 3). Returns (height + strip, width, 3).
    """
    image = Image.fromarray(_checked(picture))
    size_px = _text_size(*image.size)
    pad = max(4, size_px // 2)
    block = _Block(label_text(text), size_px, image.width - 2 * pad, _CAPTION_LINES)
    if not block.lines:
        return picture
    out = Image.new("RGB", (image.width, image.height + block.height + 2 * pad), _PAPER)
    out.paste(image, (0, 0))
    block.draw(ImageDraw.Draw(out), pad, image.height + pad)
    return np.asarray(out)


class _Block:
    """Lines of text that were made to fit into a width."""

    def __init__(self, text: str, size_px: int, width_px: int, max_lines: int) -> None:
        self.font: Font = font_for(text, size_px)
        self.lines = fit_lines(text, self.font, width_px, max_lines)
        self.step = round(size_px * _LINE_HEIGHT)
        self.height = self.step * len(self.lines)
        self.width = max((int(self.font.getlength(line)) + 1 for line in self.lines), default=0)

    def draw(
        self, draw: ImageDraw.ImageDraw, x: int, y: int, *, centre_in: int = 0, fill: tuple[int, int, int] = _INK
    ) -> None:
        for number, line in enumerate(self.lines):
            shift = max(0, centre_in - int(self.font.getlength(line))) // 2
            draw.text((x + shift, y + number * self.step), line, font=self.font, fill=fill)


def _cell_size(rows: Sequence[Sequence[Picture | None]]) -> tuple[int, int]:
    """Width and height of the largest picture."""
    shapes = [_checked(picture).shape for row in rows for picture in row if picture is not None]
    return (
        max([_MIN_CELL, *(shape[1] for shape in shapes)]),
        max([_MIN_CELL, *(shape[0] for shape in shapes)]),
    )


def _checked(picture: Picture) -> Picture:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(f"a picture is uint8 of shape (height, width, 3), not {picture.dtype} {picture.shape}")
    return picture


def _text_size(width: int, height: int) -> int:
    """Pixels: readable on the smallest cell, and still when a large grid is shown scaled down."""
    return max(12, min(48, round(min(width, height) / 20)))


def _label_width(cell_w: int, size_px: int) -> int:
    return max(size_px * 9, min(cell_w // 2, size_px * 14))


def _lines_in(cell_h: int, size_px: int) -> int:
    return max(1, min(_ROW_LABEL_LINES, int(cell_h / (size_px * _LINE_HEIGHT))))


def _paste(canvas: Image.Image, picture: Picture, place: tuple[int, int], cell: tuple[int, int], shrink: float) -> None:
    image = Image.fromarray(picture)
    if shrink < 1.0:
        image = image.resize(
            (max(1, int(image.width * shrink)), max(1, int(image.height * shrink))), Image.Resampling.LANCZOS
        )
    canvas.paste(image, (place[0] + (cell[0] - image.width) // 2, place[1] + (cell[1] - image.height) // 2))


def _draw_empty(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], cell: tuple[int, int], text: str, size_px: int
) -> None:
    (x, y), (width, height) = place, cell
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=_EMPTY, outline=_LINE)
    block = _Block(text, size_px, width - 2 * (size_px // 2), _lines_in(height - size_px, size_px))
    block.draw(
        draw, x + size_px // 2, y + (height - block.height) // 2, centre_in=width - 2 * (size_px // 2), fill=_QUIET
    )
