"""A folder of images -> WebDataset tar shards.

In: a local folder or any fsspec URI, searched for images recursively. Out: `<output>/<prefix>-00000.tar`, …, the same
bytes whenever the folder is the same. The key of an image is its path without the suffix; dots in its base name become
`_`, since a key ends at the first dot, and two images that would share a key get `_2`, `_3`, … behind it.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline import storage
from pipeline.config import UserError, canonical_uri, check_uri
from pipeline.listing import each, list_files
from pipeline.shards import IMAGE_SUFFIXES
from pipeline.storage import File


@dataclass
class Packed:
    """What was packed: shards written, images in them, and files that are no images."""

    num_shards: int = 0
    num_images: int = 0
    num_ignored: int = 0


def pack(input_uri: str, output_uri: str, images_per_shard: int, prefix: str) -> Packed:
    """Write the shards; each is put whole.

    Raises:
        UserError: the folder does not exist or holds no image.
    """
    check_uri("input", input_uri)
    check_uri("output", output_uri)
    input_uri, output_uri = canonical_uri(input_uri), canonical_uri(output_uri)
    storage.check_output(output_uri)
    try:
        files = list(each(list_files(input_uri).sort_by("path")))
    except Exception as error:  # each store has its own exceptions
        raise storage.explain("input", input_uri, error) from error
    images = [file for file in files if file.path.lower().endswith(IMAGE_SUFFIXES)]
    if not images:
        raise UserError(f"--input {input_uri} holds no image ({', '.join(IMAGE_SUFFIXES)}).")
    packed = Packed(num_ignored=len(files) - len(images))
    members = list(_named(images))
    for first in range(0, len(members), images_per_shard):
        name = f"{prefix}-{packed.num_shards:05}.tar"
        data = _tar(input_uri, members[first : first + images_per_shard])
        storage.put_whole(storage.join(output_uri, name), data)
        packed.num_shards += 1
    packed.num_images = len(members)
    return packed


def _named(images: list[File]) -> Iterator[tuple[str, File]]:
    """Member names whose keys differ, each with its file."""
    taken: set[str] = set()
    for image in images:
        stem, suffix = image.path.rsplit(".", 1)
        folder, slash, base = stem.rpartition("/")
        wanted = folder + slash + (base.lstrip(".").replace(".", "_") or "_")
        key, number = wanted, 2
        while key in taken:
            key, number = f"{wanted}_{number}", number + 1
        taken.add(key)
        yield f"{key}.{suffix.lower()}", image


def _tar(input_uri: str, members: list[tuple[str, File]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, image in members:
            data = storage.read_bytes(storage.child(input_uri, image.path))
            info = tarfile.TarInfo(name)  # no time, no owner: the same images make the same bytes
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
