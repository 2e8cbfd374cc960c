"""Scaling and cropping: where every pixel lands, what is kept, and that nothing is ever enlarged."""

from __future__ import annotations

import random

import numpy as np
import pytest
from dataset_forge import encode, noise, zip_of
from ideogram4_lora_trainer.trainer_core.dataset import crop_box, fit_image, load_pixels, open_dataset
from ideogram4_lora_trainer.trainer_core.errors import ImageTooSmall, ImageUnreadable
from PIL import Image, ImageOps

ODD_FITS = [
    ((640, 480), (464, 464)),
    ((481, 641), (480, 480)),
    ((1000, 333), (320, 320)),
    ((333, 1000), (320, 320)),
    ((997, 991), (496, 512)),
    ((2000, 301), (1584, 288)),
    ((515, 1031), (512, 1024)),
    ((1537, 1025), (1536, 1024)),
    ((700, 700), (16, 688)),
    ((700, 700), (688, 16)),
]


def ramps(width: int, height: int) -> Image.Image:
    """Red rises from left to right, green from top to bottom, so that a pixel tells where it comes from."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[..., 0] = np.round((np.arange(width) + 0.5) / width * 255)
    image[..., 1] = np.round((np.arange(height) + 0.5) / height * 255)[:, None]
    return Image.fromarray(image)


@pytest.mark.parametrize(("source", "target"), ODD_FITS)
def test_every_pixel_comes_from_where_the_crop_says(source: tuple[int, int], target: tuple[int, int]) -> None:
    (source_width, source_height), (width, height) = source, target
    fitted = np.array(fit_image(ramps(*source), *target)).astype(float)
    assert fitted.shape == (height, width, 3)
    scale = max(width / source_width, height / source_height)
    left = (source_width - width / scale) / 2
    top = (source_height - height / scale) / 2
    from_x = left + (np.arange(width) + 0.5) / scale
    from_y = top + (np.arange(height) + 0.5) / scale
    # Half a level of rounding, the filter's ring at an edge, and half a pixel where unscaled images keep whole pixels.
    slack_x, slack_y = 2 + 128 / source_width, 2 + 128 / source_height
    assert np.abs(fitted[..., 0] - from_x / source_width * 255).max() <= slack_x
    assert np.abs(fitted[..., 1] - (from_y / source_height * 255)[:, None]).max() <= slack_y


@pytest.mark.parametrize(("source", "target"), ODD_FITS)
def test_one_side_is_kept_whole_and_the_crop_is_centred(source: tuple[int, int], target: tuple[int, int]) -> None:
    box = crop_box(*source, *target)
    assert box.left >= 0 and box.top >= 0 and box.right <= source[0] and box.bottom <= source[1]
    assert box.width == source[0] or box.height == source[1]
    assert box.left + box.right == pytest.approx(source[0], abs=1)
    assert box.top + box.bottom == pytest.approx(source[1], abs=1)
    assert box.width / box.height == pytest.approx(target[0] / target[1], rel=1e-9)


@pytest.mark.parametrize(("source", "target"), ODD_FITS)
def test_pillows_own_fit_agrees_but_for_rounding(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = noise(*source)
    box = crop_box(*source, *target)
    if (box.width, box.height) == target:
        pytest.skip("not scaled: ours keeps to whole pixels")
    reference = ImageOps.fit(image, target, Image.Resampling.LANCZOS)
    assert np.abs(np.array(fit_image(image, *target)).astype(int) - np.array(reference)).max() <= 1


def test_no_border_ever() -> None:
    """A white picture stays white to its last row and column, for 300 sizes that do not divide."""
    rng = random.Random(1)
    for _ in range(300):
        width, height = rng.randrange(16, 200, 16), rng.randrange(16, 200, 16)
        source = Image.new("RGB", (width + rng.randrange(300), height + rng.randrange(300)), "white")
        assert np.array(fit_image(source, width, height)).min() == 255


def test_scaling_is_antialiased() -> None:
    """A one-pixel checkerboard, scaled down, is grey; picking pixels would give black and white."""
    checks = np.indices((600, 600)).sum(axis=0) % 2 * 255
    image = Image.fromarray(checks.astype(np.uint8)).convert("RGB")
    assert np.abs(np.array(fit_image(image, 208, 208)).astype(int) - 127).max() <= 6


@pytest.mark.parametrize("source", [(48, 32), (49, 32), (48, 33), (51, 32), (48, 39)])
def test_an_image_that_is_only_cropped_keeps_its_pixels(source: tuple[int, int]) -> None:
    image = noise(*source)
    box = crop_box(*source, 48, 32)
    expected = np.array(image)[int(box.top) : int(box.top) + 32, int(box.left) : int(box.left) + 48]
    assert (np.array(fit_image(image, 48, 32)) == expected).all()
    assert (int(box.left), int(box.top)) == ((source[0] - 48) // 2, (source[1] - 32) // 2)


@pytest.mark.parametrize("source", [(47, 32), (48, 31), (47, 900), (900, 31), (1, 1)])
def test_nothing_is_enlarged(source: tuple[int, int]) -> None:
    with pytest.raises(ImageTooSmall, match=f"{source[0]}x{source[1]}.*48x32"):
        fit_image(Image.new("RGB", source), 48, 32)


def test_pixels_of_an_item() -> None:
    image = noise(64, 48)
    dataset = open_dataset(zip_of({"a.png": encode(image)}), default_caption="x")
    pixels = load_pixels(dataset, dataset.items[0], 32, 48)
    assert pixels.shape == (48, 32, 3) and pixels.dtype == np.uint8 and pixels.flags.writeable
    assert (pixels == np.array(image)[:, 16:48]).all()


def test_an_image_that_changed_its_size_is_refused(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(encode(Image.new("RGB", (64, 48))))
    dataset = open_dataset(tmp_path, default_caption="x")
    (tmp_path / "a.png").write_bytes(encode(Image.new("RGB", (48, 64))))
    with pytest.raises(ImageUnreadable, match=r"a\.png has changed"):
        load_pixels(dataset, dataset.items[0], 32, 32)
