"""Images, good, odd and hostile, in one table: other packs may do to Pillow what they like, the verdict is the same."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from dataset_forge import encode, exif, noise, png_chunks, png_from
from ideogram4_lora_trainer.trainer_core.dataset import decode, decode_image
from ideogram4_lora_trainer.trainer_core.errors import ImageUnreadable
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

try:
    import resource
except ImportError:  # Windows
    resource = None

MAX_EXTRA_BYTES = 64 * 2**20
"""What Python holds beyond the file itself; a picture of more pixels than allowed would take 400 MB."""
MAX_SECONDS = 5.0

# ---- what is done to Pillow ----------------------------------------------------------------------------------


def lenient(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    patch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    patch.setattr(Image, "WARN_POSSIBLE_FORMATS", True, raising=False)
    patch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 2**40)
    patch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 2**40)


def strict(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    patch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 1)
    patch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 1)
    warnings.simplefilter("error")


def small_reads(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ImageFile, "MAXBLOCK", 1)
    patch.setattr(ImageFile, "SAFEBLOCK", 16)


def broken(*_: object, **__: object) -> Any:
    raise RuntimeError("another pack broke this")


def other_plugins(patch: pytest.MonkeyPatch) -> None:
    """A pack that takes over every format, and fails."""
    patch.setattr(Image, "ID", ["PNG", "JPEG", "WEBP"])
    patch.setattr(Image, "OPEN", dict.fromkeys(("PNG", "JPEG", "WEBP"), (broken, None)))
    patch.setattr(Image, "EXTENSION", {".png": "JPEG", ".jpg": "GIF", ".webp": "TIFF"})


def nothing_registered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Image, "ID", [])
    patch.setattr(Image, "OPEN", {})
    patch.setattr(Image, "preinit", broken)
    patch.setattr(Image, "init", broken)
    patch.setattr(Image, "open", broken)
    patch.setattr(ImageFile.ImageFile, "load", broken)
    patch.setattr(JpegImagePlugin, "jpeg_factory", broken)
    patch.setattr(WebPImagePlugin.WebPImageFile, "_open", broken)


def all_at_once(patch: pytest.MonkeyPatch) -> None:
    for hostile in (lenient, strict, small_reads, nothing_registered):
        hostile(patch)


HOSTILE = (lenient, strict, small_reads, other_plugins, nothing_registered, all_at_once)


@contextmanager
def pillow(change: Callable[[pytest.MonkeyPatch], None]) -> Any:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        change(patch)
        yield


# ---- the images ----------------------------------------------------------------------------------------------


def png16() -> bytes:
    levels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    return encode(Image.fromarray(levels))


def huge_png(width: int, height: int) -> bytes:
    header = struct.pack(">2L5B", width, height, 8, 2, 0, 0, 0)
    return png_from([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")])


def jpeg_with(segment: bytes) -> bytes:
    """A sound JPEG with something put in behind its first marker."""
    data = encode(noise(), "JPEG")
    return data[:2] + segment + data[2:]


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">2BH", 0xFF, marker, len(body) + 2) + body


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = encode(noise(64, 64), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (count - data.count(b"\xff\xda")) + data[-2:]


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    first, *rest = png_chunks(encode(noise()))
    return png_from([first, *chunks, *rest])


def frames(kind: str, **options: Any) -> bytes:
    pictures = [Image.new("RGB", (20, 20), colour) for colour in ("red", "green")]
    return encode(pictures[0], kind, save_all=True, append_images=pictures[1:], **options)


def broken_exif() -> bytes:
    """Tags that point beyond the data; Pillow warns of each."""
    entries = b"".join(struct.pack("<2HLL", 0x0100 + index, 2, 1000, 10**6) for index in range(20))
    return b"Exif\0\0II*\0" + struct.pack("<LH", 8, 20) + entries + bytes(4)


NOISE = noise(40, 30)
PNG, JPEG, WEBP = encode(NOISE), encode(NOISE, "JPEG"), encode(NOISE, "WEBP")
PALETTE = NOISE.quantize(16)
CMYK = NOISE.convert("CMYK")

ACCEPTED: dict[str, bytes] = {
    "png": PNG,
    "jpeg": JPEG,
    "webp": WEBP,
    "webp, lossless with alpha": encode(noise(30, 30, mode="RGBA"), "WEBP", lossless=True),
    "png, alpha": encode(noise(30, 30, mode="RGBA")),
    "png, grey and alpha": encode(noise(30, 30, mode="LA")),
    "png, palette": encode(PALETTE),
    "png, palette with transparent bytes": encode(PALETTE, transparency=bytes(range(0, 256, 16))),
    "png, 1 bit": encode(NOISE.convert("1")),
    "png, 16 bit": png16(),
    "png, large": encode(noise(800, 700)),
    "png, animated": frames("PNG", duration=10),
    "png, a rotation": encode(NOISE, exif=exif(6)),
    "png, a text that unpacks to 50 MB": png_with((b"zTXt", b"bomb\0\0" + zlib.compress(bytes(50_000_000), 9))),
    "png, a thousand profiles of 8 MB": png_with(*[(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**23 - 1), 9))] * 1000),
    "jpeg, grey": encode(NOISE.convert("L"), "JPEG"),
    "jpeg, cmyk": encode(CMYK, "JPEG"),
    "jpeg, progressive": encode(NOISE, "JPEG", progressive=True),
    "jpeg, as many scans as allowed": many_scans(decode.MAX_JPEG_SCANS),
    "jpeg, several pictures (mpo)": frames("MPO"),
    "jpeg, exif that leads nowhere": jpeg_with(segment(0xE1, broken_exif())),
    "jpeg, twenty megabytes of exif": jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 300),
    "jpeg, fill bytes": jpeg_with(b"\xff" * 1000),
    "jpeg, another size inside a part behind fill bytes": jpeg_with(
        b"\xff" + segment(0xE5, segment(0xC0, struct.pack(">B2HB", 8, 9, 9, 3) + bytes(9)))
    ),
    "webp, animated": frames("WEBP", duration=10),
    "webp, a rotation": encode(NOISE, "WEBP", exif=exif(8)),
}

REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cut off"),
    "png, its second half missing": (PNG[: len(PNG) // 2], "truncated"),
    "png, its end missing": (PNG[:-12], "truncated"),
    "png, a wrong checksum": (PNG[:-20] + bytes((PNG[-20] ^ 1,)) + PNG[-19:], "damaged"),
    "png, fewer rows than told": (huge_png(100, 100), "damaged"),
    "png, more pixels than allowed": (huge_png(10_001, 10_000), "megapixels"),
    "png, 2^31 pixels wide": (huge_png(2**31 - 1, 2**31 - 1), "megapixels"),
    "png, no pixels": (huge_png(0, 5), "no pixels"),
    "png, a million parts": (png_with(*[(b"tEXt", b"")] * 20_000), "parts ahead"),
    "jpeg, its second half missing": (JPEG[: len(JPEG) // 2], "truncated"),
    "jpeg, its last byte missing": (JPEG[:-1], "truncated"),
    "jpeg, one scan more than allowed": (many_scans(decode.MAX_JPEG_SCANS + 1), "scans"),
    "jpeg, a hundred thousand scans": (many_scans(100_000), "scans"),
    "jpeg, junk between all parts": (
        JPEG[:20] + (bytes(4000) + b"\xff\x01") * 3000 + JPEG[20:],
        "damaged",
    ),
    "jpeg, fill bytes without end": (jpeg_with(b"\xff" * 5_000_000), "damaged"),
    "jpeg, 65,535 pixels square": (
        b"\xff\xd8" + segment(0xC0, struct.pack(">B2HB", 8, 65_535, 65_535, 3) + bytes(9)) + segment(0xDA, bytes(8)),
        "megapixels",
    ),
    "webp, its second half missing": (WEBP[: len(WEBP) // 2], "truncated"),
    "webp, its last byte missing": (WEBP[:-1], "truncated"),
    "webp, a canvas of 2^28 pixels": (
        b"RIFF" + struct.pack("<L", 22) + b"WEBPVP8X" + struct.pack("<LL", 10, 0) + b"\xff\x3f\0" * 2,
        "megapixels",
    ),
    "gif": (encode(PALETTE, "GIF"), "not a PNG, JPEG or WebP"),
    "bmp": (encode(NOISE, "BMP"), "not a PNG, JPEG or WebP"),
    "tiff": (encode(NOISE, "TIFF"), "not a PNG, JPEG or WebP"),
    "ico": (encode(NOISE, "ICO"), "not a PNG, JPEG or WebP"),
    "ppm": (encode(NOISE, "PPM"), "not a PNG, JPEG or WebP"),
    "jpeg 2000": (encode(NOISE, "JPEG2000"), "not a PNG, JPEG or WebP"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a PNG, JPEG or WebP"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a PNG, JPEG or WebP"),
}


def verdict(data: bytes) -> tuple[str, bytes]:
    """Why the image is refused, or ("", all of its pixels)."""
    try:
        image = decode_image(data, "a.gif")  # the name decides nothing
    except ImageUnreadable as error:
        return str(error), b""
    assert image.mode == "RGB"
    return "", image.tobytes()


def highest_bytes() -> int:
    """The most memory that this process ever had, so far as the system tells."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if resource else 0


def test_there_are_at_least_30_of_them() -> None:
    files = [*ACCEPTED.values(), *(data for data, _ in REFUSED.values())]
    assert len(set(files)) == len(files) >= 30 and len(HOSTILE) >= 3


@pytest.mark.parametrize("case", [*ACCEPTED, *REFUSED])
def test_the_verdict_is_the_same_under_clean_and_hostile_globals(case: str) -> None:
    data, words = (ACCEPTED[case], "") if case in ACCEPTED else REFUSED[case]
    clean = verdict(data)
    assert (clean[0] == "") == (case in ACCEPTED) and words in clean[0]
    for change in HOSTILE:
        with pillow(change):
            assert verdict(data) == clean, change.__name__


@pytest.mark.parametrize("case", [*ACCEPTED, *REFUSED])
def test_memory_and_time_are_bounded(case: str) -> None:
    data = ACCEPTED[case] if case in ACCEPTED else REFUSED[case][0]
    before_bytes, started = highest_bytes(), time.perf_counter()
    tracemalloc.start()
    try:
        verdict(data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - started < MAX_SECONDS
    assert peak_bytes < MAX_EXTRA_BYTES
    assert highest_bytes() - before_bytes < 4 * MAX_EXTRA_BYTES


def test_the_globals_are_hostile_indeed() -> None:
    """Pillow's own way of opening files is changed by every one of them, so that nothing here passes for nothing."""

    def opened(data: bytes) -> str:
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                return "opened"
        except (OSError, RuntimeError, Image.DecompressionBombError) as error:
            return type(error).__name__

    cut = PNG[: len(PNG) // 2]
    plain = opened(PNG), opened(cut)
    assert plain[0] == "opened" != plain[1]
    with pillow(lenient):
        assert opened(cut) == "opened"
    for change in (strict, other_plugins, nothing_registered):
        with pillow(change):
            assert opened(PNG) != "opened", change.__name__
