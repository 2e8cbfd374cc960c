"""Labelled grids: every picture is there untouched, at any size and with any label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ideogram4_lora_trainer.trainer_core.pictures import caption_strip, grid, labelled_grid
from ideogram4_lora_trainer.trainer_core.pictures.grid import Picture

LONG = '{"high_level_description":"' + "A lighthouse on a rocky shore at dusk. " * 60 + '"}'


def noise(width: int, height: int, seed: int) -> Picture:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def places(canvas: Picture, picture: Picture) -> list[tuple[int, int]]:
    """Where the picture lies in the canvas, pixel for pixel."""
    height, width = picture.shape[:2]
    starts = np.argwhere(
        (canvas[: canvas.shape[0] - height + 1, : canvas.shape[1] - width + 1] == picture[0, 0]).all(-1)
    )
    return [(x, y) for y, x in starts if (canvas[y : y + height, x : x + width] == picture).all()]


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (700, 400)])
@pytest.mark.parametrize("label", ["a", LONG, "猫" * 900, ""])
def test_pictures_are_unchanged_and_in_rows_and_columns(size: tuple[int, int], label: str) -> None:
    rows = [[noise(*size, 10 * row + column) for column in range(3)] for row in range(2)]
    canvas = labelled_grid(rows, [label] * 2, [label] * 3, label)
    found = [[places(canvas, picture) for picture in row] for row in rows]
    assert all(len(cell) == 1 for row in found for cell in row)
    lefts = {tuple(cell[0][0] for cell in row) for row in found}
    tops = {tuple(found[row][column][0][1] for row in range(2)) for column in range(3)}
    assert len(lefts) == len(tops) == 1
    assert list(*lefts) == sorted(*lefts)


def test_labels_and_title_take_room_of_their_own() -> None:
    rows = [[noise(128, 128, 1)]]
    bare = labelled_grid(rows, [""], [""])
    assert labelled_grid(rows, ["a row"], [""]).shape[1] > bare.shape[1]
    assert labelled_grid(rows, [""], ["a column"]).shape[0] > bare.shape[0]
    assert labelled_grid(rows, [""], [""], "a title").shape[0] > bare.shape[0]
    assert (labelled_grid(rows, ["a row"], [""]) != labelled_grid(rows, ["b row"], [""])).any()


def test_empty_cells_and_rows_that_end_early() -> None:
    rows = [[noise(128, 128, 1), None], [noise(128, 128, 2)]]
    quiet, speaking = (
        labelled_grid(rows, ["a", "b"], ["x", "y"]),
        labelled_grid(rows, ["a", "b"], ["x", "y"], "", "no room"),
    )
    assert quiet.shape == speaking.shape
    assert (quiet != speaking).any()
    for nothing in (labelled_grid([], [], []), labelled_grid([[None]], ["a"], ["b"])):
        assert nothing.size


def test_pictures_of_different_sizes_share_the_largest_cell() -> None:
    small, large = noise(64, 64, 1), noise(256, 128, 2)
    canvas = labelled_grid([[small, large]], ["a"], ["x", "y"])
    ((x, y),), ((left, top),) = places(canvas, small), places(canvas, large)
    assert y == top + 32, "centred"
    assert x < left


def test_giant_grids_are_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "MAX_SIDE_PX", 1000)
    canvas = labelled_grid([[noise(512, 512, 1)] * 12], ["a"], ["b"] * 12)
    assert max(canvas.shape) <= 1300


def test_a_strip_is_added_below_and_only_there() -> None:
    for size in ((64, 64), (512, 300), (1536, 1024)):
        picture = noise(*size, 3)
        out = caption_strip(picture, LONG)
        assert (out[: size[1]] == picture).all()
        assert out.shape[0] > size[1]
        assert out.shape[1] == size[0]
    assert (caption_strip(picture, " ") == picture).all()


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        caption_strip(np.zeros((4, 4, 3), np.float32), "a")  # type: ignore[arg-type]


def test_this_room_needs_no_torch() -> None:
    for file in Path(grid.__file__).parent.glob("*.py"):
        assert "torch" not in file.read_text(encoding="utf-8")
