"""Benchmark part `decode`: encoded bytes -> pixels on one core, by our decoder and by its rivals.

The whole work is to decode, resize to 341 and crop the centre 299, as uint8. The rivals are Pillow through timm's
evaluation transform without its float conversion, simplejpeg with Pillow's resize of the crop box, and torchvision. The
limit is to decode alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import simplejpeg
import torch
from PIL import Image

from pipeline.bench.measure import Part, Setting, one_core, race, ratio, show
from pipeline.images.decode import decode
from pipeline.images.jpeg import read_jpeg
from pipeline.images.room import Room
from pipeline.model.spec import INPUT_SIZE, MEAN, RESIZE_SIDE, STD

LARGE = (4000, 3000)  # 12 megapixels, as a phone takes them
NUM_LARGE = 8
OURS, PILLOW, ONLY = "ours", "Pillow, as timm does it", "decode only: ours"


def measure(setting: Setting) -> Part:
    """Ratios `decode_vs_pillow`, `decode_of_decode_only`, `decode_vs_pillow_12mp`."""
    part = Part()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with one_core():
        for name, images in (("ImageNet-size", setting.photos[:90]), ("12 megapixels", enlarge(setting.photos))):
            rates = race({rival: _work_on(images, work) for rival, work in _rivals().items()}, setting.repeats)
            show(f"decode, one core, {name}, {sum(map(len, images)) // len(images) // 1000} KB each", rates, OURS)
            vs_pillow, of_only = ratio(rates[OURS], rates[PILLOW]), ratio(rates[OURS], rates[ONLY])
            part.figures[f"decode, {name}"] = rates
            if name == "ImageNet-size":
                part.ratios |= {"decode_vs_pillow": vs_pillow, "decode_of_decode_only": of_only}
            else:
                part.ratios["decode_vs_pillow_12mp"] = vs_pillow
    torch.set_num_threads(threads)
    return part


def enlarge(photos: list[bytes]) -> list[bytes]:
    """Photographs enlarged to 12 megapixels, with the noise of a sensor, JPEG quality 92: about 2 MB each."""
    random = np.random.default_rng(0)
    enlarged = []
    for photo in photos[:NUM_LARGE]:
        pixels = np.asarray(Image.open(io.BytesIO(photo)).convert("RGB").resize(LARGE, Image.Resampling.BICUBIC))
        noisy = pixels + random.normal(0, 3, pixels.shape).astype(np.float32)
        buffer = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
        enlarged.append(buffer.getvalue())
    return enlarged


def _work_on(images: list[bytes], work: Callable[[bytes], object]) -> Callable[[], int]:
    def run() -> int:
        for image in images:
            work(image)
        return len(images)
    return run


def _rivals() -> dict[str, Callable[[bytes], object]]:
    import torchvision
    from timm.data.transforms_factory import create_transform
    from torchvision.transforms import v2
    slot_HWC = np.empty((INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    timm_transform = create_transform((3, INPUT_SIZE, INPUT_SIZE), interpolation="bicubic", mean=(MEAN,) * 3,
                                      std=(STD,) * 3, crop_pct=0.875)
    timm_pixels = torchvision.transforms.Compose(timm_transform.transforms[:2])  # resize, centre crop
    tv_pixels = v2.Compose([v2.Resize(RESIZE_SIDE, v2.InterpolationMode.BICUBIC, antialias=True),
                            v2.CenterCrop(INPUT_SIZE)])

    def by_simplejpeg(encoded: bytes) -> np.ndarray:
        image = Image.fromarray(simplejpeg.decode_jpeg(encoded))
        side = min(image.size)
        half = side * INPUT_SIZE / RESIZE_SIDE / 2
        x, y = image.width / 2, image.height / 2
        return np.asarray(image.resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BICUBIC,
                                       (x - half, y - half, x + half, y + half)))

    def by_torchvision(encoded: bytes) -> torch.Tensor:
        data = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
        pixels: torch.Tensor = tv_pixels(torchvision.io.decode_image(data, torchvision.io.ImageReadMode.RGB))
        return pixels

    return {
        OURS: lambda encoded: decode(encoded, slot_HWC, max_pixels=10**9, max_bytes=10**9),
        "ours, large JPEGs at full scale": lambda encoded: decode(
            encoded, slot_HWC, max_pixels=10**9, max_bytes=10**9, reduce=False),
        PILLOW: lambda encoded: np.asarray(timm_pixels(Image.open(io.BytesIO(encoded)).convert("RGB"))),
        "simplejpeg, Pillow resizes the crop": by_simplejpeg,
        "torchvision, v2": by_torchvision,
        ONLY: lambda encoded: read_jpeg(encoded, Room(10**9), reduce=True),
        "decode only: simplejpeg": lambda encoded: simplejpeg.decode_jpeg(encoded),
        "decode only: Pillow": lambda encoded: Image.open(io.BytesIO(encoded)).convert("RGB"),
        "decode only: torchvision": lambda encoded: torchvision.io.decode_image(
            torch.frombuffer(bytearray(encoded), dtype=torch.uint8), torchvision.io.ImageReadMode.RGB),
    }
