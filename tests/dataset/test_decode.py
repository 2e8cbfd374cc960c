"""From a file's bytes to RGB: orientation, colours, transparency, and files that are broken or hostile."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from dataset_forge import encode, exif, noise, png, png_chunk, png_chunks, png_from, zip_of
from ideogram4_lora_trainer.trainer_core.dataset import decode, decode_image, headers, open_dataset
from ideogram4_lora_trainer.trainer_core.errors import ImageUnreadable
from PIL import Image, ImageCms, ImageFile, ImageOps, PngImagePlugin

KINDS = ("PNG", "JPEG", "WEBP")
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture(params=["clean", "lenient", "strict"])
def pillow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Pillow's process-wide switches as another pack may have left them."""
    if request.param == "lenient":
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 2**30)
    elif request.param == "strict":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
        monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 1)
        monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 1)
    return request.param


def pixels(data: bytes) -> np.ndarray:
    image = decode_image(data, "a.png")
    assert image.mode == "RGB"
    return np.array(image).astype(int)


def listed_size(data: bytes) -> tuple[int, int]:
    item = open_dataset(zip_of({"a.png": data}), default_caption="x").items[0]
    return item.width, item.height


def refused(data: bytes, words: str = "") -> None:
    with pytest.raises(ImageUnreadable, match=rf"a\.png .*{words}"):
        decode_image(data, "a.png")


# ---- orientation ---------------------------------------------------------------------------------------------


def corners() -> Image.Image:
    """48x32, a different colour in every quarter, in blocks that survive JPEG."""
    image = Image.new("RGB", (48, 32), WHITE)
    for box, colour in (((0, 0), RED), ((32, 0), GREEN), ((0, 16), BLUE)):
        image.paste(Image.new("RGB", (16, 16), colour), box)
    return image


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_before_anything_is_measured(kind: str, orientation: int) -> None:
    data = encode(corners(), kind, exif=exif(orientation), **({"lossless": True} if kind == "WEBP" else {}))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert listed_size(data) == upright.size == ((32, 48) if orientation >= 5 else (48, 32))
    assert np.abs(pixels(data) - np.array(upright).astype(int)).max() <= 2
    if orientation == 6:  # stored lying on its side: the first column is the top row, read from below
        assert np.abs(pixels(data)[8, 24] - np.array(RED)).max() < 20


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_exif_in_both_byte_orders_with_and_without_prefix(order: str, prefix: bytes) -> None:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(order + "2HL4s", 0x010F, 2, 4, b"abc\0") + struct.pack(order + "2HLHH", 0x0112, 3, 1, 6, 0)
    block = prefix + mark + struct.pack(order + "LH", 8, 2) + entries
    assert headers.exif_orientation(block) == 6


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"Exif\0\0",
        b"II*\0",
        b"XX*\0" + bytes(40),
        b"II*\0" + struct.pack("<LH", 0xFFFFFFFF, 1),
        b"II*\0" + struct.pack("<LH", 8, 0xFFFF) + bytes(12),
        b"II*\0" + struct.pack("<LH2HLHH", 8, 1, 0x0112, 3, 1, 9, 0),
        b"II*\0" + struct.pack("<LH2HLHH", 8, 1, 0x0112, 3, 1, 0, 0),
        b"II*\0" + struct.pack("<LH2HLHH", 8, 1, 0x0112, 2, 1, 6, 0),
    ],
)
def test_broken_exif_data_means_upright(block: bytes) -> None:
    assert headers.exif_orientation(block) == 1
    chunks = png_chunks(png(40, 20))
    assert listed_size(png_from([chunks[0], (b"eXIf", block), *chunks[1:]])) == (40, 20)


def test_a_rotation_behind_the_pixels_of_a_png_is_not_overlooked() -> None:
    chunks = png_chunks(png(40, 20))
    upright = png_from([*chunks[:-1], (b"eXIf", exif(1)), chunks[-1]])
    assert pixels(upright).shape == (20, 40, 3)
    refused(png_from([*chunks[:-1], (b"eXIf", exif(6)), chunks[-1]]), "rotation written behind its pixels")


# ---- colours -------------------------------------------------------------------------------------------------


def png_of(colour_type: int, depth: int, rows: list[bytes], width: int, *before_pixels: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand: `rows` are packed samples."""
    header = struct.pack(">2L5B", width, len(rows), depth, colour_type, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    return png_from([(b"IHDR", header), *before_pixels, (b"IDAT", packed), (b"IEND", b"")])


def test_alpha_is_composited_on_white() -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(255, 0, 0, 255), (255, 0, 0, 128), (1, 2, 3, 0)])
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        assert np.abs(pixels(encode(image, kind, **options)) - [[RED, (255, 127, 127), WHITE]]).max() <= 1


def test_grey_with_alpha_is_composited_on_white() -> None:
    image = Image.new("LA", (3, 1))
    image.putdata([(0, 255), (0, 128), (0, 0)])
    assert np.abs(pixels(encode(image)) - [[[0] * 3, [127] * 3, [255] * 3]]).max() <= 1


def test_palettes_with_and_without_transparency() -> None:
    palette = (b"PLTE", bytes((*RED, *GREEN, *BLUE)))
    row = [bytes((0, 1, 2))]
    assert pixels(png_of(3, 8, row, 3, palette)).tolist() == [[[*RED], [*GREEN], [*BLUE]]]
    transparent = png_of(3, 8, row, 3, palette, (b"tRNS", b"\xff\x00\x80"))
    assert np.abs(pixels(transparent) - [[RED, WHITE, (127, 127, 255)]]).max() <= 1
    one = png_of(3, 8, row, 3, palette, (b"tRNS", b"\xff\x00"))
    assert pixels(one).tolist() == [[[*RED], [*WHITE], [*BLUE]]]
    nibbles = png_of(3, 2, [bytes((0b00011000,))], 3, palette)
    assert pixels(nibbles).tolist() == [[[*RED], [*GREEN], [*BLUE]]]


@pytest.mark.parametrize(("depth", "levels"), [(1, [0, 255]), (2, [0, 85, 170, 255]), (4, [0, 17, 136, 255])])
def test_grey_of_few_bits(depth: int, levels: list[int]) -> None:
    samples = [level * (2**depth - 1) // 255 for level in levels]
    bits = sum(sample << (8 - depth * (index + 1)) % 16 for index, sample in enumerate(samples[: 8 // depth]))
    shown = levels[: 8 // depth]
    data = png_of(0, depth, [bytes((bits,))], len(shown))
    assert pixels(data)[0, :, 0].tolist() == shown
    key = struct.pack(">H", samples[0])
    assert pixels(png_of(0, depth, [bytes((bits,))], len(shown), (b"tRNS", key)))[0, 0].tolist() == [255, 255, 255]
    key = struct.pack(">H", samples[1])
    keyed = pixels(png_of(0, depth, [bytes((bits,))], len(shown), (b"tRNS", key)))
    assert keyed[0, 1].tolist() == [255, 255, 255] and keyed[0, 0].tolist() == [0, 0, 0]


def test_sixteen_bits_become_eight_over_the_whole_range() -> None:
    levels = np.array([0, 1, 256, 32768, 65279, 65535], dtype=">u2")
    grey = pixels(png_of(0, 16, [levels.tobytes()], 6))
    assert np.abs(grey[0, :, 0] - levels.astype(int) / 257).max() <= 1
    assert (grey == grey[..., :1]).all()
    keyed = pixels(png_of(0, 16, [levels.tobytes()], 6, (b"tRNS", struct.pack(">H", 1))))
    assert keyed[0, :2, 0].tolist() == [0, 255]
    colour = np.array([[65535, 0, 32768], [257, 65535, 0]], dtype=">u2")
    rgb = pixels(png_of(2, 16, [colour.tobytes()], 2))
    assert np.abs(rgb[0] - colour.astype(int) / 257).max() <= 1
    keyed = pixels(png_of(2, 16, [colour.tobytes()], 2, (b"tRNS", struct.pack(">3H", 257, 65535, 0))))
    assert keyed[0, 1].tolist() == [255, 255, 255]
    alpha = np.array([[0, 0, 0, 65535], [0, 0, 0, 32768], [0, 0, 0, 0]], dtype=">u2")
    assert np.abs(pixels(png_of(6, 16, [alpha.tobytes()], 3))[0, :, 0] - [0, 127, 255]).max() <= 1
    grey_alpha = np.array([[0, 65535], [65535, 65535]], dtype=">u2")
    assert pixels(png_of(4, 16, [grey_alpha.tobytes()], 2))[0, :, 0].tolist() == [0, 255]


def test_interlaced_png_is_the_same_picture() -> None:
    """Adam7 written by hand: seven reduced pictures one after another."""
    image = np.array(noise(13, 11))
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = [b"\0" + row.tobytes() for x, y, dx, dy in passes for row in image[y::dy, x::dx]]
    header = struct.pack(">2L5B", 13, 11, 8, 2, 0, 0, 1)
    data = png_from([(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")])
    assert (pixels(data) == image).all()


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_without_three_channels(mode: str) -> None:
    picture = Image.new("RGB", (32, 32), (200, 30, 90)).convert(mode)
    expected = np.array(picture.convert("RGB")).astype(int)
    assert np.abs(pixels(encode(picture, "JPEG", quality=95)) - expected).max() <= 4


def test_only_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in (RED, GREEN)]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=10, **options)
        assert Image.open(io.BytesIO(data)).n_frames == 2
        assert np.unique(pixels(data).reshape(-1, 3), axis=0).tolist() == [[*RED]]


def test_a_jpeg_followed_by_a_second_picture_is_the_first() -> None:
    """As phones store a depth map or the other eye."""
    first, second = (Image.new("RGB", (32, 32), colour) for colour in (RED, BLUE))
    data = encode(first, "JPEG") + encode(second, "JPEG")
    assert np.abs(pixels(data) - RED).max() < 5
    multi = encode(first, "MPO", save_all=True, append_images=[second])
    assert np.abs(pixels(multi) - RED).max() < 5


# ---- colour profiles -----------------------------------------------------------------------------------------


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2 for a display: a header, a table, the tags."""
    table, body = struct.pack(">L", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">2L", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    illuminant = struct.pack(">3l", 63190, 65536, 54061)
    head = struct.pack(">L4sL4s4s4s", start + len(body), b"", 0x02100000, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + illuminant
    return head + bytes(128 - len(head)) + table + body


def xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3l", *(round(value * 65536) for value in values))


def gamma(exponent: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">LH", 1, round(exponent * 256))


SRGB_COLOURS = {"r": (0.4361, 0.2225, 0.0139), "g": (0.3851, 0.7169, 0.0971), "b": (0.1431, 0.0606, 0.7141)}


def rgb_profile(red: str, green: str, blue: str, exponent: float = 2.2) -> bytes:
    """A colour space whose channels are, in this order, the named primaries of sRGB."""
    tags = {b"wtpt": xyz(0.9642, 1.0, 0.8249)}
    for channel, source in zip("rgb", (red, green, blue), strict=True):
        tags[f"{channel}XYZ".encode()] = xyz(*SRGB_COLOURS[source])
        tags[f"{channel}TRC".encode()] = gamma(exponent)
    return profile(b"RGB ", tags)


@pytest.mark.parametrize("kind", KINDS)
def test_a_colour_profile_is_honoured(kind: str) -> None:
    """A profile whose red channel means blue: a red file is a blue picture."""
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(Image.new("RGB", (16, 16), RED), kind, icc_profile=rgb_profile("b", "g", "r"), **options)
    assert np.abs(pixels(data) - BLUE).max() <= 6
    plain = encode(Image.new("RGB", (16, 16), RED), kind, icc_profile=rgb_profile("r", "g", "b"), **options)
    assert np.abs(pixels(plain) - RED).max() <= 6


def test_the_srgb_profile_changes_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = noise(64, 64)
    assert np.abs(pixels(encode(image, icc_profile=srgb)) - np.array(image).astype(int)).max() <= 1


def test_profiles_apply_to_transparent_palette_and_grey_images() -> None:
    swapped = rgb_profile("b", "g", "r")
    rgba = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert np.abs(pixels(encode(rgba, icc_profile=swapped)) - (127, 127, 255)).max() <= 4
    palette = Image.new("RGB", (4, 4), RED).quantize(4)
    assert np.abs(pixels(encode(palette, icc_profile=swapped)) - BLUE).max() <= 4
    linear = profile(b"GRAY", {b"wtpt": xyz(0.9642, 1.0, 0.8249), b"kTRC": gamma(1.0)})
    grey = pixels(encode(Image.new("L", (4, 4), 55), icc_profile=linear))
    assert np.abs(grey - 128).max() <= 3  # linear 55/255 is sRGB 128/255
    coloured_grey = pixels(encode(Image.new("L", (4, 4), 55), icc_profile=rgb_profile("r", "g", "b", 1.0)))
    assert np.abs(coloured_grey - 128).max() <= 3


@pytest.mark.parametrize(
    "broken",
    [
        b"no profile",
        rgb_profile("b", "g", "r")[:200],
        rgb_profile("b", "g", "r").replace(b"rXYZ", b"xxxx"),
        rgb_profile("b", "g", "r").replace(b"RGB ", b"CMYK"),
        profile(b"GRAY", {b"kTRC": gamma(1.0)}),
    ],
)
def test_a_profile_that_cannot_be_used_counts_as_srgb(broken: bytes) -> None:
    for kind in ("PNG", "JPEG"):
        assert np.abs(pixels(encode(Image.new("RGB", (16, 16), RED), kind, icc_profile=broken)) - RED).max() <= 4
    cmyk = Image.new("RGB", (16, 16), (200, 30, 90)).convert("CMYK")
    with_wrong_profile = pixels(encode(cmyk, "JPEG", icc_profile=rgb_profile("b", "g", "r"), quality=95))
    assert (with_wrong_profile == pixels(encode(cmyk, "JPEG", quality=95))).all()


def test_a_profile_that_unpacks_without_end_is_ignored() -> None:
    bomb = b"bomb\0\0" + zlib.compress(bytes(64 * 2**20), 9)
    chunks = png_chunks(png())
    data = png_from([chunks[0], (b"iCCP", bomb), *chunks[1:]])
    assert (pixels(data) == pixels(png())).all()


# ---- broken and hostile --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_are_accepted_whatever_the_switches_say(kind: str, pillow: str) -> None:
    data = encode(noise(91, 47), kind)
    assert pixels(data).shape == (47, 91, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_are_refused_whatever_the_switches_say(kind: str, pillow: str) -> None:
    data = encode(noise(40, 40), kind)
    for length in (*range(0, len(data) - 2, max(1, len(data) // 40)), len(data) - 2, len(data) - 1):
        refused(data[:length])


def test_damaged_png_data_is_refused_whatever_the_switches_say(pillow: str) -> None:
    data = png(40, 40)
    position = data.index(b"IDAT") + 500
    refused(data[:position] + bytes((data[position] ^ 1,)) + data[position + 1 :], "damaged")
    chunks = dict(png_chunks(data))
    raw = zlib.decompress(chunks[b"IDAT"])
    for lie in (raw[:-100], b"\x09" + raw[1:]):  # rows missing; a filter that does not exist
        refused(png_from([(b"IHDR", chunks[b"IHDR"]), (b"IDAT", zlib.compress(lie)), (b"IEND", b"")]), "damaged")
    refused(png_from([(b"IHDR", chunks[b"IHDR"]), (b"IEND", b"")]), "damaged")


@pytest.mark.parametrize("kind", [b"PLTE", b"tRNS"])
def test_damaged_colours_of_a_palette_are_refused(kind: bytes, pillow: str) -> None:
    colours = {b"PLTE": bytes((*RED, *GREEN)), b"tRNS": b"\x10\x20"}
    data = bytearray(png_of(3, 8, [bytes((0, 1))], 2, *colours.items()))
    assert pixels(bytes(data)).shape == (1, 2, 3)
    data[data.index(kind) + 4] ^= 1
    refused(bytes(data), "damaged")


def test_a_jpeg_with_broken_tables_is_refused_whatever_the_switches_say(pillow: str) -> None:
    data = encode(noise(40, 40), "JPEG")
    table = data.index(b"\xff\xc4") + 5
    refused(data[:table] + b"\xff" * 16 + data[table + 16 :], "damaged")


def test_a_short_transparency_chunk_is_refused_whatever_the_switches_say(pillow: str) -> None:
    chunks = png_chunks(png())
    refused(png_from([chunks[0], (b"tRNS", b"\0"), *chunks[1:]]), "damaged")


def test_text_chunks_of_any_size_do_not_matter(pillow: str) -> None:
    chunks = png_chunks(png())
    for kind, body in (
        (b"tEXt", b"workflow\0" + b"x" * 2_000_000),
        (b"zTXt", b"bomb\0\0" + zlib.compress(bytes(50_000_000), 9)),
        (b"iTXt", b"bomb\0\1\0\0\0" + zlib.compress(bytes(50_000_000), 9)),
    ):
        assert (pixels(png_from([chunks[0], (kind, body), *chunks[1:]])) == pixels(png())).all()


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused_by_content(kind: str) -> None:
    refused(encode(noise(), kind), "not a PNG, JPEG or WebP")


@pytest.mark.parametrize("data", [b"", b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"RIFF\x04\0\0\0WAVE", b"%PDF-1.7" * 9])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    refused(data)


def sized_png(width: int, height: int) -> bytes:
    return png_of(2, 8, [b""] * 0, width)[:16] + _ihdr(width, height)


def _ihdr(width: int, height: int) -> bytes:
    body = struct.pack(">2L5B", width, height, 8, 2, 0, 0, 0)
    return body + struct.pack(">L", zlib.crc32(b"IHDR" + body)) + bytes(4) + b"IDAT"


def sized_webp(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<L", 22) + b"WEBPVP8X" + struct.pack("<LL", 10, 0) + canvas


def sized_jpeg(width: int, height: int) -> bytes:
    frame = struct.pack(">2sH B2H B", b"\xff\xc0", 17, 8, height, width, 3) + bytes(9)
    return b"\xff\xd8" + frame + b"\xff\xda\0\x08" + bytes(8)


@pytest.mark.parametrize("make", [sized_png, sized_webp, sized_jpeg])
def test_pixels_are_limited_from_both_sides_before_anything_is_decoded(make) -> None:
    assert listed_size(make(10_000, 10_000)) == (10_000, 10_000)
    refused(make(10_001, 10_000), "10001x10000 pixels, more than 100 megapixels")
    with pytest.raises(ImageUnreadable, match="megapixels"):
        listed_size(make(10_001, 10_000))


@pytest.mark.parametrize("data", [sized_png(0, 5), sized_png(5, 0), sized_jpeg(0, 5), sized_jpeg(5, 0)])
def test_images_without_pixels_are_refused(data: bytes) -> None:
    refused(data, "no pixels")


def test_headers_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "MAX_HEADER_BYTES", 100_000)
    padding = b"\xff\xe5\xff\xff" + bytes(65533)
    data = encode(noise(), "JPEG")
    assert pixels(data[:2] + padding + data[2:]).shape == (24, 32, 3)
    refused(data[:2] + 2 * padding + data[2:], "header of more than")
    refused(data[:2] + bytes(5000) + data[2:], "not a PNG")
    refused(data[:20] + bytes(5000) + data[20:], "damaged JPEG")


def test_parts_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "MAX_PARTS", 20)
    for kind, part, position in (("JPEG", b"\xff\xe5\0\2", 2), ("PNG", png_chunk(b"tEXt", b""), 33)):
        data = encode(noise(), kind)
        assert pixels(data[:position] + 5 * part + data[position:]).shape == (24, 32, 3)
        refused(data[:position] + 20 * part + data[position:], "parts ahead of its pixels")
    webp = encode(noise(), "WEBP", exif=exif(6))
    assert webp[12:16] == b"VP8X" and pixels(webp).shape == (32, 24, 3)
    refused(webp[:30] + 20 * b"XMP \0\0\0\0" + webp[30:], "parts ahead of its pixels")
    monkeypatch.setattr(decode, "MAX_PNG_CHUNKS", 30)
    chunks = png_chunks(png())
    for count, accepted in ((30 - len(chunks), True), (31 - len(chunks), False)):
        data = png_from([*chunks[:-1], *[(b"tEXt", b"")] * count, chunks[-1]])
        if accepted:
            assert (pixels(data) == pixels(png())).all()
        else:
            refused(data, "more than 30 chunks")


def test_junk_between_jpeg_segments_is_passed_over_as_other_readers_do() -> None:
    data = encode(noise(), "JPEG")
    assert data[2:4] == b"\xff\xe0"
    end = 4 + int.from_bytes(data[4:6], "big")
    assert (pixels(data[:end] + b"\0\0\xff\xff" + data[end:]) == pixels(data)).all()


def test_a_jpeg_with_two_sizes_is_refused() -> None:
    data = encode(noise(40, 40), "JPEG")
    frame = data.index(b"\xff\xc0")
    other = data[frame : frame + 2 + int.from_bytes(data[frame + 2 : frame + 4], "big")].replace(b"\0\x28", b"\0\x29")
    refused(data[:frame] + other + data[frame:], "two sizes")


def test_an_apple_png_is_refused_by_name() -> None:
    chunks = png_chunks(png())
    refused(png_from([(b"CgBI", bytes(4)), *chunks]), "Apple")


def test_damage_anywhere_gives_a_message_or_a_picture_of_the_listed_size(pillow: str) -> None:
    """Every kind of file with single bytes changed: decoded to the size that the header tells, or refused."""
    rng = np.random.default_rng(3)
    for kind in KINDS:
        honest = encode(noise(24, 16), kind)
        for _ in range(150):
            data = bytearray(honest)
            data[rng.integers(len(data))] = rng.integers(256)
            try:
                size = headers.read_header(iter([bytes(data)])).size
                image = decode_image(bytes(data), "a.png")
            except (ImageUnreadable, headers.Refused):
                continue
            assert image.size == size
