"""Photographs, images made byte by byte, and the comparison of `decode` with timm."""

import io
import struct
import zlib
from typing import Any, Literal

import numpy as np
import skimage.data
import sklearn.datasets
import timm.data
from PIL import Image

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
FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}, "GIF": {}, "JPEG": {}}
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
