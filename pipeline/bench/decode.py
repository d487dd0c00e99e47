"""Benchmark part `decode`: one core, encoded bytes -> pixels; ours against what others do.

Rivals by whole work (decode, resize to 341, centre crop 299, uint8): Pillow through timm's own evaluation transform
without its float conversion; simplejpeg with Pillow's resize of the crop box; torchvision. Decoding alone is the limit.
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


def measure(setting: Setting) -> Part:
    """Ratios `decode_vs_pillow`, `decode_of_decode_only`, `decode_vs_pillow_12mp`; on one core of those we have."""
    part = Part()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with one_core():
        for name, images in (("ImageNet-size", setting.photos[:90]), ("12 megapixels", large(setting.photos))):
            rates = race({rival: _over(images, work) for rival, work in _rivals().items()}, setting.repeats)
            show(f"decode, one core, {name}, {sum(map(len, images)) // len(images) // 1000} KB each", rates, OURS)
            vs_pillow, of_only = ratio(rates[OURS], rates[PILLOW]), ratio(rates[OURS], rates[ONLY])
            part.figures[f"decode, {name}"] = rates
            if name == "ImageNet-size":
                part.ratios |= {"decode_vs_pillow": vs_pillow, "decode_of_decode_only": of_only}
            else:
                part.ratios["decode_vs_pillow_12mp"] = vs_pillow
    torch.set_num_threads(threads)
    return part


OURS, PILLOW, ONLY = "ours", "Pillow, as timm does it", "decode only: ours"


def large(photos: list[bytes]) -> list[bytes]:
    """Photographs enlarged to 12 megapixels, with the noise of a sensor, JPEG quality 92: about 2 MB each."""
    random = np.random.default_rng(0)
    made = []
    for photo in photos[:NUM_LARGE]:
        pixels = np.asarray(Image.open(io.BytesIO(photo)).convert("RGB").resize(LARGE, Image.Resampling.BICUBIC))
        noisy = pixels + random.normal(0, 3, pixels.shape).astype(np.float32)
        buffer = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
        made.append(buffer.getvalue())
    return made


def _over(images: list[bytes], work: Callable[[bytes], object]) -> Callable[[], int]:
    def run() -> int:
        for image in images:
            work(image)
        return len(images)
    return run


def _rivals() -> dict[str, Callable[[bytes], object]]:
    import torchvision
    from timm.data import create_transform
    from torchvision.transforms import v2
    slot_HWC = np.empty((INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    timm_transform = create_transform((3, INPUT_SIZE, INPUT_SIZE), interpolation="bicubic", mean=(MEAN,) * 3,
                                      std=(STD,) * 3, crop_pct=0.875)
    timm_pixels = torchvision.transforms.Compose(timm_transform.transforms[:2])  # resize, centre crop
    tv_pixels = v2.Compose([v2.Resize(RESIZE_SIDE, v2.InterpolationMode.BICUBIC, antialias=True),
                            v2.CenterCrop(INPUT_SIZE)])

    def box(encoded: bytes) -> np.ndarray:
        image = Image.fromarray(simplejpeg.decode_jpeg(encoded))
        side = min(image.size)
        half = side * INPUT_SIZE / RESIZE_SIDE / 2
        x, y = image.width / 2, image.height / 2
        return np.asarray(image.resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BICUBIC,
                                       (x - half, y - half, x + half, y + half)))

    def by_torchvision(encoded: bytes) -> torch.Tensor:
        data = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
        return tv_pixels(torchvision.io.decode_image(data, torchvision.io.ImageReadMode.RGB))

    return {
        OURS: lambda encoded: decode(encoded, slot_HWC, max_pixels=10**9, max_bytes=10**9),
        "ours, large JPEGs at full scale": lambda encoded: decode(encoded, slot_HWC, max_pixels=10**9, max_bytes=10**9,
                                                                  reduce=False),
        PILLOW: lambda encoded: np.asarray(timm_pixels(Image.open(io.BytesIO(encoded)).convert("RGB"))),
        "simplejpeg, Pillow resizes the crop": box,
        "torchvision, v2": by_torchvision,
        ONLY: lambda encoded: read_jpeg(encoded, Room(10**9), reduce=True),
        "decode only: simplejpeg": lambda encoded: simplejpeg.decode_jpeg(encoded),
        "decode only: Pillow": lambda encoded: Image.open(io.BytesIO(encoded)).convert("RGB"),
        "decode only: torchvision": lambda encoded: torchvision.io.decode_image(
            torch.frombuffer(bytearray(encoded), dtype=torch.uint8), torchvision.io.ImageReadMode.RGB),
    }
