"""Which size is chosen, the limits from both sides, and images that are too small for it."""

from __future__ import annotations

import pytest
from ideogram4_lora_trainer.trainer_core.dataset import PRESETS, Dataset, Item, check_fit, resolve_resolution
from ideogram4_lora_trainer.trainer_core.errors import ImageTooSmall, ResolutionRejected


def dataset(*sizes: tuple[int, int]) -> Dataset:
    items = tuple(Item(f"{index}.png", "x", "file", *size) for index, size in enumerate(sizes))
    return Dataset("set", items, (), (), "", container=None)


def resolved(sizes: list[tuple[int, int]], choice: str, custom: str = "", **options: int) -> tuple[int, int]:
    resolution = resolve_resolution(dataset(*sizes), choice, custom, **options)
    return resolution.width, resolution.height


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(1024, 1024)], (1024, 1024)),
        ([(1039, 1024)], (1024, 1024)),
        ([(1040, 1023)], (1040, 1008)),
        ([(2000, 500), (600, 1500)], (592, 496)),  # the width of one image, the height of another
        ([(2063, 1019), (4000, 3000)], (2048, 1008)),
    ],
)
def test_auto_takes_the_smallest_sides_rounded_down(sizes: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    assert resolved(sizes, "auto") == expected


def test_auto_says_why() -> None:
    reason = resolve_resolution(dataset((2000, 500), (600, 1500)), "auto").reason
    assert "600 (1.png)" in reason and "500 (0.png)" in reason


@pytest.mark.parametrize(
    ("width", "height"),
    [(2064, 512), (512, 1808), (2048, 1024), (1456, 1440)],
)
def test_auto_never_shrinks_what_is_beyond_the_limits(width: int, height: int) -> None:
    with pytest.raises(ResolutionRejected, match=rf"{width}x{height}.*preset.*custom"):
        resolved([(width, height)], "auto")


@pytest.mark.parametrize(
    ("accepted", "refused"),
    [
        ("2048x1008", "2064x1008"),
        ("1024x1792", "1024x1808"),
        ("1920x1088", "1936x1088"),
        ("1168x1776", "1184x1776"),
        ("16x16", "0x16"),
        ("1024x1024", "1024x1032"),
        ("1024x1024", "1023x1024"),
    ],
)
def test_limits_from_both_sides(accepted: str, refused: str) -> None:
    large = [(9000, 9000)]
    assert resolved(large, accepted) == tuple(int(side) for side in accepted.split("x"))
    with pytest.raises(ResolutionRejected, match=refused):
        resolved(large, refused)


@pytest.mark.parametrize(("size", "accepted"), [("256x512", True), ("240x512", False), ("512x240", False)])
def test_the_smallest_side_is_the_callers(size: str, accepted: bool) -> None:
    assert resolved([(600, 600)], size) != ()
    if accepted:
        assert resolved([(600, 600)], size, min_side=256) == (256, 512)
    else:
        with pytest.raises(ResolutionRejected, match="below 256"):
            resolved([(600, 600)], size, min_side=256)


def test_every_preset_passes_for_real_models() -> None:
    for name, size in PRESETS.items():
        assert resolved([(9000, 9000)], name, min_side=256) == size
    assert PRESETS["widescreen"] == (1920, 1088) and len(PRESETS) == 7


@pytest.mark.parametrize("text", ["1280x768", " 1280 X 768 ", "1280\u00d7768"])
def test_custom_sizes_as_people_write_them(text: str) -> None:
    assert resolved([(9000, 9000)], "custom", text) == (1280, 768)
    assert resolved([(9000, 9000)], text) == (1280, 768)


@pytest.mark.parametrize("text", ["", "1280", "1280x", "x768", "1280x768x3", "1.5x16", "-16x16", "1e3x16", "\u0664x16"])
def test_what_is_no_size_is_refused_with_the_choices(text: str) -> None:
    for choice, custom in ((text, ""), ("custom", text)):
        with pytest.raises(ResolutionRejected, match="1280x768"):
            resolved([(9000, 9000)], choice, custom)


def test_a_custom_size_does_not_disturb_other_choices() -> None:
    assert resolved([(600, 600)], "auto", "1280x768") == (592, 592)
    assert resolved([(600, 600)], "Square", "rubbish") == (1024, 1024)


# ---- too small -----------------------------------------------------------------------------------------------


def test_images_that_just_fit_are_accepted() -> None:
    check_fit(dataset((512, 512), (512, 9000)), 512, 512)


@pytest.mark.parametrize("small", [(511, 512), (512, 511), (511, 9000)])
def test_small_images_are_named_with_their_size_and_the_largest_that_all_allow(small: tuple[int, int]) -> None:
    with pytest.raises(ImageTooSmall) as error:
        check_fit(dataset((2000, 2000), small, (600, 700)), 512, 512)
    message = str(error.value)
    assert f"1.png ({small[0]}x{small[1]})" in message and "0.png" not in message and "2.png" not in message
    allowed = (small[0] // 16 * 16, min(700, small[1]) // 16 * 16)
    assert f"{min(allowed[0], 592)}x{allowed[1]}" in message


def test_many_small_images_are_counted() -> None:
    with pytest.raises(ImageTooSmall) as error:
        check_fit(dataset(*[(100, 100)] * 30), 512, 512)
    message = str(error.value)
    assert "30 images" in message and "19.png" in message and "20.png" not in message and "10 more" in message


@pytest.mark.parametrize("sizes", [[(2040, 1700)], [(9000, 300)], [(40, 9000)], [(2047, 1030), (3000, 1025)]])
def test_the_size_that_is_recommended_is_accepted(sizes: list[tuple[int, int]]) -> None:
    images = dataset(*sizes)
    with pytest.raises(ImageTooSmall) as error:
        check_fit(images, 2048, 2048)
    recommended = str(error.value).split(" allow is ")[1].split(":")[0]
    resolution = resolve_resolution(images, recommended)
    check_fit(images, resolution.width, resolution.height)


def test_images_too_small_for_any_size_are_to_be_removed() -> None:
    with pytest.raises(ImageTooSmall, match="Remove or replace") as error:
        check_fit(dataset((15, 900)), 16, 16)
    assert "allow is" not in str(error.value)
