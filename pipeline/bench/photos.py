"""The photographs of the benchmark, and shards of them.

In: a folder of tar shards; without one, the photographs of scikit-image and scikit-learn, cut to ImageNet's most
frequent size. Out: encoded images, and shards of 90 images.
"""

from __future__ import annotations

import io
import os
import tarfile
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import UserError
from pipeline.formats.tars.read import read_samples
from pipeline.inputs.find import find_shards
from pipeline.store import storage
from pipeline.store.stream import open_stream

PER_SHARD = 90
TYPICAL = (500, 375)  # width and height in ImageNet; at quality 92 a file has ImageNet's 110 KB
PACKAGED = {"skimage": ("data/astronaut.png", "data/chelsea.png", "data/coffee.png", "data/rocket.jpg",
                        "data/motorcycle_left.png"),
            "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg")}


def photographs(folder: str | None) -> list[bytes]:
    """Encoded photographs: the JPEGs in the shards under `folder`, or 180 crops of the packaged ones.

    Raises:
        UserError: the folder has fewer than 90 JPEGs.
    """
    if folder is None:
        return _crop_packaged(2 * PER_SHARD)
    photos: list[bytes] = []
    for path in find_shards(folder).shards["path"].to_pylist():
        with open_stream(storage.child(folder, path)) as (file, _):
            encoded = [sample.encoded for sample in read_samples(file, 2**26)]
            photos += [image for image in encoded if image.startswith(b"\xff\xd8\xff")]
    if len(photos) < PER_SHARD:
        raise UserError(f"--photos {folder} holds {len(photos)} JPEGs in tar shards; the benchmark needs {PER_SHARD}.")
    return photos


def _crop_packaged(number: int) -> list[bytes]:
    random = np.random.default_rng(0)
    paths = [Path(str(files(package))) / name for package, names in PACKAGED.items() for name in names]
    whole = [Image.open(path).convert("RGB") for path in paths]
    crops = []
    for index in range(number):
        image = whole[index % len(whole)]
        width = random.uniform(0.6, 1) * min(image.width, image.height * TYPICAL[0] / TYPICAL[1])
        height = width * TYPICAL[1] / TYPICAL[0]
        left, top = random.uniform(0, image.width - width), random.uniform(0, image.height - height)
        crop = image.resize(TYPICAL, Image.Resampling.LANCZOS, (left, top, left + width, top + height))
        buffer = io.BytesIO()
        crop.save(buffer, "JPEG", quality=92)
        crops.append(buffer.getvalue())
    return crops


def write_shards(photos: list[bytes], folder: str, number: int) -> str:
    """Write `number` shards of 90 photographs into a new folder; the folder. Equal shards are links to one file."""
    os.makedirs(folder)
    num_different = max(1, len(photos) // PER_SHARD)
    for shard in range(number):
        path = os.path.join(folder, f"photos-{shard:05}.tar")
        if shard >= num_different:
            os.link(os.path.join(folder, f"photos-{shard % num_different:05}.tar"), path)
            continue
        with tarfile.open(path, "w") as tar:
            for index, photo in enumerate(photos[shard * PER_SHARD:(shard + 1) * PER_SHARD]):
                member = tarfile.TarInfo(f"{index:06}.jpg")
                member.size = len(photo)
                tar.addfile(member, io.BytesIO(photo))
    return folder
