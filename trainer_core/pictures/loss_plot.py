"""The loss of a run as a picture: every step, the smoothed loss, validation, checkpoints and the best of them.

Drawn at twice the size and scaled down, which smooths the lines. Nothing is told by colour alone: curves differ in
width and dashes, points in their marks.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw

from .text import fit_lines, font_for

_SCALE = 2
_SIZE = (1280 * _SCALE, 720 * _SCALE)
_LEFT, _TOP, _RIGHT, _BOTTOM = 92 * _SCALE, 116 * _SCALE, 40 * _SCALE, 78 * _SCALE
_TEXT, _SMALL, _TITLE = 15 * _SCALE, 14 * _SCALE, 22 * _SCALE
_PAPER, _INK, _QUIET, _GRID = (255, 255, 255), (28, 28, 30), (92, 92, 98), (228, 228, 232)
_RAW, _SMOOTHED, _VALIDATION, _TRAIN = (142, 170, 208), (31, 95, 168), (196, 84, 16), (120, 72, 150)
_OUTLIERS = 0.01
"""Part of the single losses, at either end, that may lie beyond the picture; one high loss must not flatten it."""

Point = tuple[float, float]
Colour = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Validation:
    """The loss on held-out images at a step, and that on as many trained ones."""

    step: int
    loss: float
    train_loss: float | None = None
    best: bool = False
    """The lowest so far of those that can be compared, when it was made."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossCurves:
    """What is drawn. None stands for a step whose update was skipped."""

    steps: Sequence[int] = ()
    loss: Sequence[float | None] = ()
    smoothed: Sequence[float | None] = ()
    validations: Sequence[Validation] = ()
    checkpoints: Sequence[int] = ()
    """Their steps."""

    @property
    def best(self) -> Validation | None:
        """The newest that was the best so far."""
        return next((validation for validation in reversed(self.validations) if validation.best), None)


def draw_loss(curves: LossCurves, title: str) -> Image.Image:
    """The plot with axes, a legend and a title, 1280 x 720 pixels, for any number of steps."""
    image = Image.new("RGB", _SIZE, _PAPER)
    draw = ImageDraw.Draw(image)
    frame = _Frame.around(curves)
    _draw_axes(draw, frame)
    # Drawn apart and pasted, so that nothing leaves the frame.
    inside = Image.new("RGB", (_SIZE[0] - _LEFT - _RIGHT, _SIZE[1] - _TOP - _BOTTOM), _PAPER)
    inside.paste(image.crop((_LEFT, _TOP, _SIZE[0] - _RIGHT, _SIZE[1] - _BOTTOM)))
    _draw_curves(ImageDraw.Draw(inside), curves, frame.moved(-_LEFT, -_TOP))
    image.paste(inside, (_LEFT, _TOP))
    draw.rectangle((_LEFT, _TOP, _SIZE[0] - _RIGHT, _SIZE[1] - _BOTTOM), outline=_QUIET, width=_SCALE)
    _draw_checkpoints(draw, curves, frame)
    _draw_heading(draw, curves, frame, title)
    if not _numbers(curves.loss) and not curves.validations:
        _centred(draw, "No step has a loss yet.", (_LEFT + _SIZE[0] - _RIGHT) / 2, _SIZE[1] / 2, _TITLE)
    return image.resize((_SIZE[0] // _SCALE, _SIZE[1] // _SCALE), Image.Resampling.LANCZOS)


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers from `low` to `high`, 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / max(1, count)
    if not rough > 0 or not math.isfinite(rough):
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [(first + number) * step for number in range(int((high - low) / step + 1e-9) + 2) if
            (first + number) * step <= high + step * 1e-6]  # fmt: skip


# ---- the frame -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Frame:
    """Which part of the numbers is shown, and where."""

    first: float
    last: float
    low: float
    high: float
    left: float = _LEFT
    top: float = _TOP

    @classmethod
    def around(cls, curves: LossCurves) -> _Frame:
        marks = [v.step for v in curves.validations] + list(curves.checkpoints)
        last = max([2, *curves.steps, *marks])  # one step is a dot in the middle
        raw = sorted(_numbers(curves.loss))
        cut = int(len(raw) * _OUTLIERS)
        shown = raw[cut : len(raw) - cut] + _numbers(curves.smoothed)
        shown += [v.loss for v in curves.validations] + _numbers(v.train_loss for v in curves.validations)
        low, high = (min(shown), max(shown)) if shown else (0.0, 1.0)
        # A loss that does not change is a line in the middle.
        changes = high - low > 1e-6 * abs(high)
        margin = (high - low) * 0.06 if changes else abs(high) * 0.5 or 1.0
        return cls(0.0, float(last), max(0.0, low - margin) if low >= 0 else low - margin, high + margin)

    def moved(self, x: float, y: float) -> _Frame:
        return dataclasses.replace(self, left=self.left + x, top=self.top + y)

    def x(self, step: float) -> float:
        return self.left + (step - self.first) / (self.last - self.first) * (_SIZE[0] - _LEFT - _RIGHT)

    def y(self, loss: float) -> float:
        height = _SIZE[1] - _TOP - _BOTTOM
        # Far beyond the frame is as good as infinitely far, which no picture can take.
        return self.top + min(3.0, max(-2.0, (self.high - loss) / (self.high - self.low))) * height

    def beyond(self, losses: Iterable[float | None]) -> int:
        return sum(1 for loss in _numbers(losses) if not self.low <= loss <= self.high)


def _numbers(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _draw_axes(draw: ImageDraw.ImageDraw, frame: _Frame) -> None:
    bottom = _SIZE[1] - _BOTTOM
    losses = ticks(frame.low, frame.high, 6)
    digits = _digits(losses)
    for loss in losses:
        y = frame.y(loss)
        draw.line((_LEFT, y, _SIZE[0] - _RIGHT, y), fill=_GRID, width=_SCALE)
        text = f"{loss:.{digits}f}" if digits <= 6 else f"{loss:.3g}"
        draw.text((_LEFT - 10 * _SCALE, y), text, font=font_for(text, _TEXT), fill=_QUIET, anchor="rm")
    for step in ticks(frame.first, frame.last, 8):
        if step == int(step):
            x = frame.x(step)
            draw.line((x, _TOP, x, bottom), fill=_GRID, width=_SCALE)
            _centred(draw, f"{int(step):,}", x, bottom + 20 * _SCALE, _TEXT, fill=_QUIET)
    _centred(draw, "step", (_LEFT + _SIZE[0] - _RIGHT) / 2, bottom + 50 * _SCALE, _TEXT)
    draw.text((_LEFT - 10 * _SCALE, _TOP - 12 * _SCALE), "loss", font=font_for("loss", _TEXT), fill=_INK, anchor="rs")


def _digits(values: Sequence[float]) -> int:
    """Decimals that tell ticks apart."""
    if len(values) < 2:
        return 4
    apart = max(values[1] - values[0], 1e-12)
    return max(0, -math.floor(math.log10(apart) + 1e-9))


# ---- curves and marks ----------------------------------------------------------------------------------------


def _draw_curves(draw: ImageDraw.ImageDraw, curves: LossCurves, frame: _Frame) -> None:
    for line in _lines(curves.steps, curves.loss, frame):
        _polyline(draw, line, _RAW, _SCALE if len(curves.steps) > 200 else 2 * _SCALE)
    for line in _lines(curves.steps, curves.smoothed, frame):
        _polyline(draw, line, _SMOOTHED, 3 * _SCALE)
    trained = [(frame.x(v.step), frame.y(v.train_loss)) for v in curves.validations if v.train_loss is not None]
    _dashed(draw, trained, _TRAIN, 2 * _SCALE)
    for point in trained:
        _square(draw, point, _TRAIN)
    held_out = [(frame.x(v.step), frame.y(v.loss)) for v in curves.validations]
    _polyline(draw, held_out, _VALIDATION, 2 * _SCALE)
    for point in held_out:
        _disc(draw, point, _VALIDATION)
    if curves.best:
        _ring(draw, (frame.x(curves.best.step), frame.y(curves.best.loss)), _INK)


def _lines(steps: Sequence[int], values: Sequence[float | None], frame: _Frame) -> list[list[Point]]:
    """The parts of a curve between steps that have no value."""
    lines: list[list[Point]] = [[]]
    for step, value in zip(steps, values, strict=False):  # a curve may be left out
        if value is not None:
            lines[-1].append((frame.x(step), frame.y(value)))
        elif lines[-1]:
            lines.append([])
    return [line for line in lines if line]


def _draw_checkpoints(draw: ImageDraw.ImageDraw, curves: LossCurves, frame: _Frame) -> None:
    for step in curves.checkpoints:
        _triangle(draw, (frame.x(step), _SIZE[1] - _BOTTOM + 1 * _SCALE), _INK)


def _draw_heading(draw: ImageDraw.ImageDraw, curves: LossCurves, frame: _Frame, title: str) -> None:
    font = font_for(title, _TITLE)
    for line in fit_lines(title, font, _SIZE[0] - _LEFT - _RIGHT, 1):
        draw.text((_LEFT, 36 * _SCALE), line, font=font, fill=_INK, anchor="ls")
    entries = [
        ("each step", _RAW, "line", bool(_numbers(curves.loss))),
        ("smoothed", _SMOOTHED, "thick", bool(_numbers(curves.smoothed))),
        ("validation", _VALIDATION, "disc", bool(curves.validations)),
        ("the same on trained images", _TRAIN, "square", any(v.train_loss is not None for v in curves.validations)),
        ("checkpoint", _INK, "triangle", bool(curves.checkpoints)),
    ]
    if curves.best:
        at = f"step {curves.best.step:,}" if curves.best.step else "step 0, before training"
        entries.append((f"lowest validation: {curves.best.loss:.4f} at {at}", _INK, "ring", True))
    x, y = float(_LEFT), 66 * _SCALE
    for text, colour, mark, there in entries:
        if there:
            x = _draw_entry(draw, (x, y), text, colour, mark)
    _draw_footnotes(draw, curves, frame)


def _draw_footnotes(draw: ImageDraw.ImageDraw, curves: LossCurves, frame: _Frame) -> None:
    """What the curves leave out."""
    y = _SIZE[1] - 28 * _SCALE
    if skipped := sum(1 for loss in curves.loss if loss is None):
        text = f"{skipped:,} {'update was' if skipped == 1 else 'updates were'} skipped: not finite"
        draw.text((_LEFT, y), text, font=font_for(text, _SMALL), fill=_QUIET, anchor="lm")
    if beyond := frame.beyond(curves.loss):
        text = f"{beyond:,} single {'loss lies' if beyond == 1 else 'losses lie'} beyond this range"
        draw.text((_SIZE[0] - _RIGHT, y), text, font=font_for(text, _SMALL), fill=_QUIET, anchor="rm")


def _draw_entry(draw: ImageDraw.ImageDraw, place: Point, text: str, colour: Colour, mark: str) -> float:
    """One entry of the legend; returns where the next one begins."""
    x, y = place
    middle, length = (x + 14 * _SCALE, y), 28 * _SCALE
    if mark in ("line", "thick", "disc"):
        _polyline(draw, [(x, y), (x + length, y)], colour, {"line": 1, "thick": 3, "disc": 2}[mark] * _SCALE)
    if mark == "disc":
        _disc(draw, middle, colour)
    if mark == "square":
        _dashed(draw, [(x, y), (x + length, y)], colour, 2 * _SCALE)
        _square(draw, middle, colour)
    if mark == "triangle":
        _triangle(draw, (middle[0], y - 6 * _SCALE), colour)
    if mark == "ring":
        _ring(draw, middle, colour)
    font = font_for(text, _SMALL)
    draw.text((x + length + 8 * _SCALE, y), text, font=font, fill=_INK, anchor="lm")
    return x + length + 8 * _SCALE + font.getlength(text) + 24 * _SCALE


def _polyline(draw: ImageDraw.ImageDraw, points: Sequence[Point], colour: Colour, width: int) -> None:
    if len(points) == 1:
        _disc(draw, points[0], colour, radius=max(2, width))
    else:
        draw.line(list(points), fill=colour, width=width, joint="curve" if len(points) < 5000 else None)


def _dashed(draw: ImageDraw.ImageDraw, points: Sequence[Point], colour: Colour, width: int) -> None:
    dash = 7.0 * _SCALE
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        length = math.hypot(x1 - x0, y1 - y0)
        for number in range(math.ceil(length / dash / 2)):
            part = [min(1.0, at * dash / length) for at in (2 * number, 2 * number + 1)]
            draw.line([(x0 + (x1 - x0) * at, y0 + (y1 - y0) * at) for at in part], fill=colour, width=width)


def _disc(draw: ImageDraw.ImageDraw, at: Point, colour: Colour, radius: float = 4 * _SCALE) -> None:
    draw.ellipse((at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius), fill=colour)


def _square(draw: ImageDraw.ImageDraw, at: Point, colour: Colour) -> None:
    r = 4 * _SCALE
    draw.rectangle((at[0] - r, at[1] - r, at[0] + r, at[1] + r), fill=_PAPER, outline=colour, width=2 * _SCALE)


def _ring(draw: ImageDraw.ImageDraw, at: Point, colour: Colour) -> None:
    r = 9 * _SCALE
    draw.ellipse((at[0] - r, at[1] - r, at[0] + r, at[1] + r), outline=colour, width=2 * _SCALE)


def _triangle(draw: ImageDraw.ImageDraw, tip: Point, colour: Colour) -> None:
    w, h = 5 * _SCALE, 9 * _SCALE
    draw.polygon((tip, (tip[0] - w, tip[1] + h), (tip[0] + w, tip[1] + h)), fill=colour)


def _centred(draw: ImageDraw.ImageDraw, text: str, x: float, y: float, size_px: int, fill: Colour = _INK) -> None:
    draw.text((x, y), text, font=font_for(text, size_px), fill=fill, anchor="mm")
