"""Every format and mode is decoded as Pillow decodes it: alpha, palettes, 16 bits, orientation, frames."""

import io
from typing import Literal

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from tests.support.pictures import CAT, FORMATS, assert_decodes_to, assert_same, expected, png, run, save, tiff


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
