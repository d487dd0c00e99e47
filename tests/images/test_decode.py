"""The decoder against Pillow and timm: every format and mode, whole or rejected, and nothing raises."""

import io
import random
import re
import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pytest
import skimage.data
import sklearn.datasets
import timm.data
import torch
from PIL import Image, ImageCms, ImageOps

from pipeline.images.decode import REASONS, Decoded, decode

PHOTOS = {
    "astronaut": skimage.data.astronaut(),
    "chelsea": skimage.data.chelsea(),
    "coffee": skimage.data.coffee(),
    "rocket": skimage.data.rocket(),
    "china": sklearn.datasets.load_sample_image("china.jpg"),
    "flower": sklearn.datasets.load_sample_image("flower.jpg"),
}
CAT = Image.fromarray(PHOTOS["chelsea"])  # 451 x 300
SMALL = CAT.resize((96, 64))
TIMM = timm.data.create_transform(input_size=(3, 299, 299), interpolation="bicubic", crop_pct=0.875, mean=(0.5,) * 3,
                                  std=(0.5,) * 3, is_training=False)


def run(encoded: bytes, max_pixels: int = 10**8, max_bytes: int = 2**26, **options: bool) -> tuple[Decoded, np.ndarray]:
    batch_NHWC = np.full((3, 299, 299, 3), 77, np.uint8)
    decoded = decode(encoded, batch_NHWC[1], max_pixels=max_pixels, max_bytes=max_bytes, **options)
    assert (batch_NHWC[[0, 2]] == 77).all()
    if decoded.error:
        assert decoded.error in REASONS
        assert not batch_NHWC[1].any()
    return decoded, batch_NHWC[1]


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def expected(image: Image.Image) -> np.ndarray:
    """timm's evaluation preprocessing of an upright RGB image, back in 0..255."""
    return TIMM(image).mul(0.5).add(0.5).mul(255).round().byte().permute(1, 2, 0).numpy()


def assert_same(pixels_HWC: np.ndarray, image: Image.Image, mean: float = 0.05, most: int = 3) -> None:
    difference = np.abs(pixels_HWC.astype(int) - expected(image))
    assert difference.mean() <= mean
    assert difference.max() <= most


def assert_decodes_to(encoded: bytes, image: Image.Image, size: tuple[int, int] | None = None) -> None:
    decoded, pixels_HWC = run(encoded)
    assert decoded == (*(size or image.size), None)
    assert_same(pixels_HWC, image)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)), *extra,
              (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks)


def tiff(pixels_HWC: np.ndarray, order: Literal["<", ">"], photometric: int) -> bytes:
    """Uncompressed, one strip, written from the TIFF 6.0 text: Pillow writes neither 16-bit RGB nor inverted grey."""
    height, width, channels = pixels_HWC.shape
    bits = 8 * pixels_HWC.itemsize
    end = 8 + 2 + 9 * 12 + 4  # of header and directory
    bits_at = bits if channels == 1 else end
    strip = pixels_HWC.astype(pixels_HWC.dtype.newbyteorder(order)).tobytes()
    tags = [(256, "H", 1, width), (257, "H", 1, height), (258, "H" if channels == 1 else "I", channels, bits_at),
            (259, "H", 1, 1), (262, "H", 1, photometric), (273, "I", 1, end + 2 * channels), (277, "H", 1, channels),
            (278, "H", 1, height), (279, "I", 1, len(strip))]
    directory = b"".join(
        struct.pack(order + "HHI", tag, 4 if (kind, count) == ("I", 1) else 3, count)
        + struct.pack(order + kind, value).ljust(4, b"\0") for tag, kind, count, value in tags)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HIH", 42, 8, len(tags))
    return head + directory + bytes(4) + struct.pack(order + "H", bits) * channels + strip


# Preprocessing


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("subsampling", [0, 2])
def test_photographs_equal_timm(name: str, subsampling: int) -> None:
    encoded = save(Image.fromarray(PHOTOS[name]), "JPEG", quality=90, subsampling=subsampling)
    assert_decodes_to(encoded, Image.open(io.BytesIO(encoded)))


def test_every_size_equals_timm() -> None:
    rng = random.Random(0)
    sizes = [(rng.randrange(40, 900), rng.randrange(40, 900)) for _ in range(20)]
    # Rows read, or columns, as many as rows, or columns, asked of torch: it would take that for nothing to do.
    sizes += [(500, 337), (320, 685), (338, 500), (341, 341), (341, 500), (299, 299), (683, 342), (320, 320)]
    sizes += [(320 + step, 320) for step in range(-9, 9, 3)] + [(1, 1), (2, 9)]
    for size in sizes:
        image = CAT.resize(size)
        _, pixels_HWC = run(save(image, "BMP"))
        assert_same(pixels_HWC, image)


@pytest.mark.parametrize("size", [(900, 100), (100, 900), (2000, 60), (45, 1000)])
def test_long_images_equal_timm(size: tuple[int, int]) -> None:
    image = CAT.resize(size)
    decoded, pixels_HWC = run(save(image, "PNG"))
    assert decoded == (*size, None)
    assert_same(pixels_HWC, image, mean=0.2)  # Pillow chooses which of rows and columns to resize, and round, first


@pytest.mark.parametrize("size", [(3000, 2), (2, 3000), (65500, 1), (1, 65500), (60000, 300)])
def test_extreme_sides_cost_no_more_than_their_pixels(size: tuple[int, int]) -> None:
    """Resized whole, 3000 x 2 would be 511,500 x 341."""
    image = CAT.resize(size)
    start = time.process_time()
    decoded, pixels_HWC = run(save(image, "JPEG"))
    assert decoded == (*size, None)
    assert pixels_HWC.any()
    assert time.process_time() - start < 5
    (left, right), (top, bottom) = [(max(side // 2 - 2, 0), min(side // 2 + 3, side)) for side in size]
    middle_HWC = np.asarray(image)[top:bottom, left:right]
    assert np.abs(pixels_HWC.mean((0, 1)) - middle_HWC.mean((0, 1))).max() < 60


def test_reduced_decoding_moves_pixels_little() -> None:
    image = Image.fromarray(np.tile(PHOTOS["astronaut"], (6, 6, 1)))  # 3072 x 3072
    encoded = save(image, "JPEG", quality=90)
    _, full_HWC = run(encoded, reduce=False)
    assert_same(full_HWC, Image.open(io.BytesIO(encoded)))
    _, reduced_HWC = run(encoded)
    assert_same(reduced_HWC, Image.open(io.BytesIO(encoded)), mean=1.5, most=24)
    assert not np.array_equal(full_HWC, reduced_HWC)


@pytest.mark.parametrize("size", [(2729, 2801), (3001, 2999), (4003, 2730)])
def test_reduced_decoding_keeps_the_place_of_odd_sizes(size: tuple[int, int]) -> None:
    encoded = save(CAT.resize(size), "JPEG", quality=95)
    decoded, pixels_HWC = run(encoded)
    assert decoded == (*size, None)
    assert_same(pixels_HWC, CAT.resize(size), mean=0.5, most=8)


def test_one_torch_thread_or_two_are_the_same() -> None:
    encoded = save(CAT, "PNG")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        _, one_HWC = run(encoded)
        torch.set_num_threads(2)
        _, two_HWC = run(encoded)
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(one_HWC, two_HWC)


# Formats and modes


FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}, "GIF": {}, "JPEG": {}}


@pytest.mark.parametrize("kind", FORMATS)
def test_formats(kind: str) -> None:
    encoded = save(CAT, kind, **FORMATS[kind])
    assert_decodes_to(encoded, Image.open(io.BytesIO(encoded)).convert("RGB"))


@pytest.mark.parametrize(("kind", "options"), [
    ("JPEG", {"progressive": True}), ("JPEG", {"subsampling": "4:2:2"}), ("JPEG", {"restart_marker_rows": 1}),
    ("JPEG", {"keep_rgb": True}), ("WEBP", {"quality": 80}), ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_adobe_deflate"}), ("TIFF", {"compression": "jpeg"}), ("TIFF", {"big_tiff": True}),
    ("TIFF", {"compression": "packbits"}), ("GIF", {"interlace": True})])
def test_kinds_of_a_format(kind: str, options: dict) -> None:
    encoded = save(CAT, kind, **options)
    assert_decodes_to(encoded, Image.open(io.BytesIO(encoded)).convert("RGB"))


def with_alpha(mode: str) -> Image.Image:
    image = CAT.convert(mode)
    image.putalpha(Image.linear_gradient("L").resize(CAT.size))
    return image


MODES = {
    "1": CAT.convert("1"), "L": CAT.convert("L"), "LA": with_alpha("L"), "P": CAT.convert("P"),
    "RGBA": with_alpha("RGB"), "P adaptive": CAT.quantize(200), "CMYK": CAT.convert("CMYK"),
    "YCbCr": CAT.convert("YCbCr"),
}


@pytest.mark.parametrize(("kind", "mode"), [
    *[("PNG", mode) for mode in ("1", "L", "LA", "P", "P adaptive", "RGBA")], ("JPEG", "L"), ("JPEG", "CMYK"),
    ("BMP", "1"), ("BMP", "L"), ("BMP", "P"), ("BMP", "RGBA"), ("GIF", "P adaptive"), ("GIF", "L"), ("TIFF", "1"),
    ("TIFF", "L"), ("TIFF", "LA"), ("TIFF", "P"), ("TIFF", "RGBA"), ("TIFF", "CMYK"), ("TIFF", "YCbCr"),
    ("WEBP", "RGBA")])
def test_modes(kind: str, mode: str) -> None:
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    encoded = save(MODES[mode], kind, **options)
    assert_decodes_to(encoded, Image.open(io.BytesIO(encoded)).convert("RGB"))
    if kind in ("PNG", "WEBP") and mode in ("LA", "RGBA"):  # the colour under the alpha, as it was
        assert_decodes_to(encoded, CAT if mode == "RGBA" else CAT.convert("L").convert("RGB"))


@pytest.mark.parametrize("transparency", [3, bytes(range(200))])
def test_palette_with_transparency_keeps_its_colours(transparency: int | bytes) -> None:
    image = CAT.quantize(200)
    assert_decodes_to(save(image, "PNG", transparency=transparency), image.convert("RGB"))


def test_cmyk_jpeg_colours() -> None:
    """Pillow writes Adobe's inverted CMYK; with its APP14 cut out the same samples mean the opposite."""
    encoded = save(CAT.convert("CMYK"), "JPEG", quality=95)
    _, pixels_HWC = run(encoded)
    assert np.abs(pixels_HWC.astype(int) - expected(CAT)).mean() < 6
    at = encoded.index(b"\xff\xeeAdobe"[:2])
    plain = encoded[:at] + encoded[at + 2 + int.from_bytes(encoded[at + 2 : at + 4]) :]
    assert_decodes_to(plain, Image.open(io.BytesIO(plain)).convert("RGB"))


def test_ycck_jpeg() -> None:
    encoded = bytearray(save(CAT.convert("CMYK"), "JPEG", quality=95))
    encoded[encoded.index(b"Adobe") + 11] = 2  # the transform code: the same samples, read as YCCK
    assert_decodes_to(bytes(encoded), Image.open(io.BytesIO(encoded)).convert("RGB"))


DEEP = (np.asarray(CAT).astype(np.uint16) << 8) + 200  # 16 bits whose high byte is CAT


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_keeps_the_high_byte(channels: int) -> None:
    alpha_HW1 = np.full((*DEEP.shape[:2], 1), 300, np.uint16)
    deep_HWC = DEEP[:, :, : 1 if channels < 3 else 3]
    if channels in (2, 4):
        deep_HWC = np.dstack([deep_HWC, alpha_HW1])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep_HWC)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    grey = Image.fromarray(np.asarray(CAT)[:, :, 0]).convert("RGB")
    assert_decodes_to(png(*CAT.size, 16, colour, rows), grey if channels < 3 else CAT)


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff_keeps_the_high_byte(order: Literal["<", ">"]) -> None:
    grey = Image.fromarray(np.asarray(CAT)[:, :, 0])
    assert_decodes_to(tiff(DEEP[:, :, :1], order, 1), grey.convert("RGB"))
    if order == "<":  # Pillow has no other of these
        assert_decodes_to(tiff(~DEEP[:, :, :1], order, 0), grey.convert("RGB"))
    assert_decodes_to(tiff(255 - np.asarray(grey)[:, :, None], order, 0), grey.convert("RGB"))
    assert_decodes_to(tiff(DEEP, order, 2), CAT)


@pytest.mark.parametrize("image", [CAT.convert("F"), CAT.convert("I"), ImageCms.applyTransform(
    CAT, ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"))])
def test_samples_without_a_range_are_unsupported(image: Image.Image) -> None:
    assert run(save(image, "TIFF"))[0] == (451, 300, "unsupported")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "size"), [
    ("JPEG", (450, 300)), ("JPEG", (300, 451)), ("JPEG", (1200, 100)), ("PNG", (451, 300)), ("WEBP", (451, 300)),
    ("TIFF", (451, 300))])
def test_exif_orientation(orientation: int, kind: str, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    encoded = save(CAT.resize(size), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(io.BytesIO(encoded)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    decoded, pixels_HWC = run(encoded)
    assert decoded == (*size, None)
    if orientation < 5 or kind == "TIFF":
        assert_same(pixels_HWC, upright)
    else:  # turned after resizing: columns first is rounded, and JPEG's overshoots clipped, apart from rows first
        assert_same(pixels_HWC, upright, mean=0.2, most=8)


@pytest.mark.parametrize("exif", [
    b"", b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
    b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0", b"Exif\0\0garbage" * 9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_is_upright(exif: bytes, kind: str) -> None:
    encoded = save(CAT, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    decoded, pixels_HWC = run(encoded)
    assert decoded == (451, 300, None)
    assert np.array_equal(pixels_HWC, run(save(CAT, kind, **({"lossless": True} if kind == "WEBP" else {})))[1])


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_the_first_frame_counts(kind: str, options: dict) -> None:
    first = CAT.quantize(200) if kind == "GIF" else CAT
    others = [Image.new("RGB", CAT.size, colour) for colour in ("red", "green", "blue")]
    encoded = save(first, kind, save_all=True, append_images=others, **options)
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.n_frames == 4  # type: ignore[attr-defined]
    assert_decodes_to(encoded, first.convert("RGB"))


def test_no_frame_after_the_first_is_decoded() -> None:
    frames = [CAT.rotate(angle).quantize(64) for angle in range(3)]
    encoded = save(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert_decodes_to(encoded[: len(encoded) // 2] + bytes(1000), frames[0].convert("RGB"))


# Rejections


@pytest.mark.parametrize(("encoded", "reason"), [
    (b"", "empty"), (b"\0" * 1000, "not_an_image"), (b"<html>BM</html>", "not_an_image"),
    (b"BM, a car maker", "not_an_image"), (b"RIFF\0\0\0\0WAVEfmt " + bytes(100), "not_an_image"),
    (b"RIFF", "not_an_image"),
    (b"GIF89a", "not_an_image"),
    (b"\x89PNG\r\n\x1a\n" + bytes(50), "not_an_image"), (b"II*\0" + b"\xff" * 40, "not_an_image"),
    (b"\xff", "not_an_image")])
def test_what_is_no_image(encoded: bytes, reason: str) -> None:
    assert run(encoded)[0] == (None, None, reason)


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PPM", "TGA", "PCX", "ICNS", "JPEG2000", "SGI"])
def test_what_pillow_knows_and_we_do_not(kind: str) -> None:
    reason = "not_an_image" if kind == "TGA" else "unsupported"  # it has no signature
    assert run(save(CAT.resize((64, 64)), kind))[0] == (None, None, reason)


@pytest.mark.parametrize("kind", FORMATS)
def test_too_large(kind: str) -> None:
    encoded = save(SMALL, kind)
    assert run(encoded, max_pixels=96 * 64)[0] == (96, 64, None)
    assert run(encoded, max_pixels=96 * 64 - 1)[0] == (96, 64, "too_large")
    assert run(encoded, max_bytes=len(encoded))[0] == (96, 64, None)
    assert run(encoded, max_bytes=len(encoded) - 1)[0] == (None, None, "too_large")


def large(kind: str) -> bytes:
    """A header of 60,000 x 60,000 (WebP: 16,383 x 16,383) on a small body."""
    encoded = bytearray(save(SMALL, kind, **({"lossless": True} if kind == "WEBP" else {})))
    side = 60_000
    match kind:
        case "JPEG":
            at = encoded.index(b"\xff\xc0")
            encoded[at + 5 : at + 9] = struct.pack(">HH", side, side)
        case "PNG":
            return png(side, side, 8, 2, bytes(1000))
        case "GIF":
            encoded[6:10] = struct.pack("<HH", side, side)
        case "BMP":
            encoded[18:26] = struct.pack("<ii", side, side)
        case "TIFF":
            return tiff(np.zeros((1, 1, 3), np.uint8), "<", 2).replace(
                struct.pack("<HHIHH", 256, 3, 1, 1, 0), struct.pack("<HHIHH", 256, 3, 1, side, 0)).replace(
                struct.pack("<HHIHH", 257, 3, 1, 1, 0), struct.pack("<HHIHH", 257, 3, 1, side, 0))
        case "WEBP":
            encoded[21:25] = struct.pack("<I", 16_382 | 16_382 << 14)
    return bytes(encoded)


@pytest.mark.parametrize("kind", FORMATS)
def test_bombs_are_refused_by_their_header(kind: str) -> None:
    start = time.process_time()
    side = 16_383 if kind == "WEBP" else 60_000
    assert run(large(kind))[0] == (side, side, "too_large")
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("options", [
    {}, {"progressive": True}, {"subsampling": 2}, {"restart_marker_rows": 1}, {"quality": 20, "optimize": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_every_cut_of_a_jpeg_is_rejected(mode: str, options: dict) -> None:
    encoded = save(SMALL.convert(mode), "JPEG", **options)
    assert run(encoded)[0].error is None
    for length in range(1, len(encoded), 1 if mode == "RGB" and not options else 9):
        error = run(encoded[:length])[0].error
        assert error == ("truncated" if length > 2 else "not_an_image"), length
    for length in (len(encoded) - 1, len(encoded) - 2, len(encoded) - 3):
        assert run(encoded[:length])[0] == (96, 64, "truncated")


@pytest.mark.parametrize("name", PHOTOS)
def test_a_photograph_cut_at_any_marker_is_rejected(name: str) -> None:
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        encoded = save(Image.fromarray(PHOTOS[name]), "JPEG", **options)
        assert run(encoded)[0].error is None
        for match in re.finditer(rb"\xff[\xc0-\xfe]", encoded):
            for length in (match.start(), match.start() + 1, match.end()):
                assert run(encoded[:length])[0].error in ("truncated", "not_an_image",
                                                          "empty") or length >= len(encoded)


def test_a_jpeg_cut_and_ended_is_rejected() -> None:
    encoded = save(CAT, "JPEG")
    for part in (0.3, 0.5, 0.9, 0.99):
        assert run(encoded[: int(part * len(encoded))] + b"\xff\xd9")[0] == (451, 300, "corrupt")


def test_what_follows_the_end_of_a_jpeg_is_no_matter() -> None:
    encoded = save(CAT, "JPEG")
    assert np.array_equal(run(encoded)[1], run(encoded + b"\0" * 100 + b"junk" + encoded[:500])[1])


@pytest.mark.parametrize(("kind", "options"), [
    ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("GIF", {}), ("GIF", {"interlace": True}), ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", {"compression": "jpeg"}), ("BMP", {})])
def test_a_cut_image_is_whole_or_rejected(kind: str, options: dict) -> None:
    """What comes after the last pixel (PNG's check sums, GIF's trailer) may be missing; nothing else."""
    encoded = save(SMALL, kind, **options)
    _, whole_HWC = run(encoded)
    lengths = sorted({*range(1, 60), *range(60, len(encoded), max(1, len(encoded) // 150)),
                      *range(len(encoded) - 40, len(encoded))})
    for length in lengths:
        decoded, pixels_HWC = run(encoded[:length])
        if decoded.error is None:
            assert length > len(encoded) - 30, length
            assert np.array_equal(pixels_HWC, whole_HWC), length
        else:
            assert decoded.error in ("truncated", "corrupt", "not_an_image"), length
    if kind != "TIFF":
        assert run(encoded[: len(encoded) // 2])[0] == (96, 64, "truncated")


def test_a_jpeg_that_libjpeg_repairs_is_corrupt() -> None:
    """A dozen flipped bits in the scan: Pillow decodes nearly all of these, most of them shifted from there on."""
    encoded = save(CAT, "JPEG", subsampling=2)
    rng = random.Random(0)
    errors = []
    for _ in range(60):
        damaged = bytearray(encoded)
        for at in (rng.randrange(len(encoded) // 2, len(encoded) - 9) for _ in range(12)):
            damaged[at] ^= 1 << rng.randrange(8)
        errors.append(run(bytes(damaged))[0].error)
    assert set(errors) <= {None, "corrupt"}
    assert errors.count("corrupt") > 20


def test_a_harmless_warning_rejects_nothing() -> None:
    encoded = bytearray(save(CAT, "JPEG", subsampling=0))
    at = encoded.index(b"\xff\xda")
    encoded[at + 11 : at + 14] = bytes(3)  # spectral selection 0..0 in a sequential scan, as some phones write
    decoded, pixels_HWC = run(bytes(encoded))
    assert decoded == (451, 300, None)
    assert np.array_equal(pixels_HWC, run(save(CAT, "JPEG", subsampling=0))[1])
    assert run(bytes(encoded[:-2]))[0] == (451, 300, "truncated")


def test_pillow_warns_nobody() -> None:
    """pytest makes an error of any warning, and so does this filter, put before ours."""
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(CAT))
    bad_apng = png(*CAT.size, 8, 2, rows, (b"acTL", bytes(8)))
    bad_tiff = bytearray(save(CAT, "TIFF", tiffinfo={65000: "nine lives"}))
    at = bad_tiff.index(struct.pack("<H", 65000))
    bad_tiff[at + 8 : at + 12] = b"\xff\xff\xff\x7f"  # where its text would be
    for encoded in (bad_apng, bytes(bad_tiff)):
        with pytest.warns(UserWarning):
            Image.open(io.BytesIO(encoded))
    with warnings.catch_warnings():
        for encoded in (bad_apng, bytes(bad_tiff)):
            warnings.simplefilter("error")
            assert_decodes_to(encoded, CAT)


def test_mutations_end_in_a_row() -> None:
    rng = random.Random(1602_07261)
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True}),
        ("BMP", {}), ("GIF", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"})]
    images = [save(SMALL, kind, **options) for kind, options in kinds]
    images += [save(SMALL.convert("CMYK"), "JPEG"), save(SMALL.quantize(9), "PNG", transparency=bytes(9)),
               save(SMALL, "GIF", save_all=True, append_images=[SMALL.rotate(9)]),
               save(SMALL, "PNG", save_all=True, append_images=[SMALL.rotate(9)]),
               save(SMALL, "WEBP", save_all=True, append_images=[SMALL.rotate(9)])]
    reasons = set()
    for turn in range(2100):
        encoded = bytearray(images[turn % len(images)])
        match rng.choice(["cut", "flip", "flip head", "junk head", "junk", "zeros", "splice"]):
            case "cut":
                del encoded[rng.randrange(len(encoded)) :]
            case "flip":
                for _ in range(rng.randrange(1, 13)):
                    encoded[rng.randrange(len(encoded))] ^= 1 << rng.randrange(8)
            case "flip head":
                for _ in range(rng.randrange(1, 5)):
                    encoded[rng.randrange(min(120, len(encoded)))] ^= 1 << rng.randrange(8)
            case "junk head":
                encoded[4 : 4 + rng.randrange(60)] = rng.randbytes(rng.randrange(60))
            case "junk":
                at = rng.randrange(len(encoded))
                encoded[at : at + 50] = rng.randbytes(50)
            case "zeros":
                at = rng.randrange(len(encoded))
                encoded[at : at + rng.randrange(200)] = bytes(rng.randrange(200))
            case "splice":
                at = rng.randrange(len(encoded))
                encoded[at:] = rng.choice(images)[at:]
        start = time.monotonic()
        decoded, _ = run(bytes(encoded), max_pixels=10**7)
        assert time.monotonic() - start < 5
        reasons.add(decoded.error)
    assert reasons >= {None, "truncated", "corrupt", "not_an_image", "too_large"}


def test_many_threads_do_not_meet() -> None:
    sound = [save(Image.fromarray(photo), "JPEG") for photo in PHOTOS.values()] + [save(CAT, kind) for kind in FORMATS]
    images = sound + [encoded[: len(encoded) // 2] for encoded in sound] + [b"", b"junk"]
    alone = [run(encoded) for encoded in images]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, images * 4))
    for (decoded, pixels_HWC), (decoded_alone, pixels_alone_HWC) in zip(together, alone * 4, strict=True):
        assert decoded == decoded_alone
        assert np.array_equal(pixels_HWC, pixels_alone_HWC)
