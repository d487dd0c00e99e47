"""A folder of images -> WebDataset tar shards.

In: a local folder or any fsspec URI, searched for images recursively. Out: `<output>/<prefix>-00000.tar`, …, the same
bytes whenever the folder is the same. What is hidden, or a leftover of another tool, is not packed, nor what cannot be read. A shard
says in its first header which versions of which files it holds, so one that is there already is not made again.
Not here: keys (`pack_members`).
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.config import UserError, canonical_uri, check_uri
from pipeline.image_files import NOT_READ, read_files
from pipeline.inputs import find
from pipeline.left_out import IMAGE_SUFFIXES, LeftOut
from pipeline.listing import FILES, list_files
from pipeline.pack_members import keys_of
from pipeline.uris import is_same_place

SHARDS_AT_ONCE = 2  # that are in memory; of each, some files are read at once
SHARD_BYTES = 2**30  # a shard ends here, even if it has fewer images than asked for
PREFIX_BYTES = 200  # a file name has at most 255, and tables and temporary files have longer names than their shards
TELL_EVERY_S = 10.0


@dataclass
class Packed:
    """What there is now: shards, images in them, shards that were there before; and files that are not packed."""

    num_shards: int = 0
    num_images: int = 0
    num_kept: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)


def pack(input_uri: str, output_uri: str, images_per_shard: int, prefix: str, stream: TextIO = sys.stderr) -> Packed:
    """Write the shards that are not there yet; each is put whole.

    Raises:
        UserError: the places or the prefix cannot be meant; the folder does not exist or holds no image, or one of them was changed or
            removed since it was listed, or may not be read; the output has shards of a larger folder, or cannot be written.
    """
    _check_prefix(prefix)
    check_uri("input", input_uri)
    check_uri("output", output_uri)
    input_uri, output_uri = canonical_uri(input_uri), canonical_uri(output_uri)
    if is_same_place(input_uri, output_uri):
        raise UserError("--input and --output name the same place; the shards need a folder of their own.")
    storage.check_output(output_uri)
    images, left_out = _images(input_uri, output_uri)
    images = images.append_column("member", pa.array(_members(images["path"].to_pylist()))).combine_chunks()
    bounds = list(_bounds(images["size"].to_pylist(), images_per_shard))
    names = [f"{prefix}-{number:05}.tar" for number in range(len(bounds))]
    with _explained("output", output_uri):
        there = _listed(output_uri)
    surplus = sorted(name for name in set(there) - set(names) if re.fullmatch(rf"{re.escape(prefix)}-\d{{5,}}\.tar", name))
    if surplus:
        raise UserError(f"--output {output_uri} has {surplus[0]}, which this folder does not fill ({len(names)} shards): its images "
                        "might be there twice; remove it, or choose another --output or --prefix.")
    packed, told_at, known = Packed(left_out=left_out), time.monotonic(), set(there)

    def write(name: str, start: int, stop: int) -> bool:
        return _write(input_uri, output_uri, name, images.slice(start, stop - start).to_pylist(), name in known)

    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        coming = [pool.submit(write, name, *bound) for name, bound in zip(names, bounds, strict=True)]
        try:
            for (start, stop), made in zip(bounds, coming, strict=True):
                packed.num_kept += not made.result()
                packed.num_shards += 1
                packed.num_images += stop - start
                if time.monotonic() - told_at > TELL_EVERY_S:
                    told_at = time.monotonic()
                    stream.write(f"{packed.num_images:,} of {len(images):,} images, {packed.num_shards:,} of {len(names):,} shards\n")
        finally:
            pool.shutdown(cancel_futures=True)
    return packed


def _check_prefix(prefix: str) -> None:
    """Raise UserError unless names that begin so are files of the output, which the job takes for shards."""
    if not prefix.strip() or prefix[0] in "._" or not prefix.isprintable() or {*"/\\"} & {*prefix} or len(prefix.encode()) > PREFIX_BYTES:
        shown = repr(prefix) if len(prefix) <= PREFIX_BYTES else f"{prefix[:20]!r}… ({len(prefix):,} letters)"
        raise UserError(f"--prefix is {shown}; shards are files of --output and their names begin with it: it takes up to {PREFIX_BYTES} "
                        "bytes, no / and \\ and no control characters, and begins neither with . nor with _, which jobs/label.py passes over.")


@contextmanager
def _explained(name: str, uri: str) -> Iterator[None]:
    """Where the store fails, say so in a sentence that names the flag."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each store has its own exceptions
        raise storage.explain(name, uri, error) from error


def _images(input_uri: str, output_uri: str) -> tuple[pa.Table, LeftOut]:
    """The images in order of their paths, and what is left out."""
    with _explained("input", input_uri):
        groups, left_out = find(input_uri, "images", output=output_uri)
    members = pa.concat_tables([FILES.empty_table(), *(
        pa.Table.from_struct_array(chunk.flatten()).cast(FILES) for chunk in (groups["members"].chunks if len(groups) else []))])
    odd = pc.is_in(members["etag"], pa.array(list(NOT_READ)))
    for mark, reason in NOT_READ.items():
        left_out.add_paths(reason, members.filter(pc.equal(members["etag"], mark))["path"])
    images = members.filter(pc.invert(odd)).sort_by("path")
    if not len(images):
        raise UserError(f"--input {input_uri} holds no image ({', '.join(IMAGE_SUFFIXES)}){''.join('; ' + one for one in left_out.sentences())}.")
    return images, left_out


def _listed(output_uri: str) -> list[str]:
    try:
        paths: list[str] = list_files(output_uri)["path"].to_pylist()
    except FileNotFoundError:
        return []
    return paths


def _members(paths: list[str]) -> Iterator[str]:
    """Member names whose keys differ, one for each path."""
    for path, key in zip(paths, keys_of(paths), strict=True):
        yield f"{key}.{path.rpartition('.')[2].lower()}"


def _bounds(sizes: list[int], images_per_shard: int) -> Iterator[tuple[int, int]]:
    """First image of each shard, and the one behind its last."""
    start, held = 0, 0
    for at, size in enumerate(sizes):
        if at - start == images_per_shard or at > start and held + size > SHARD_BYTES:
            yield start, at
            start, held = at, 0
        held += size
    yield start, len(sizes)


def _write(input_uri: str, output_uri: str, name: str, rows: list[dict[str, Any]], is_there: bool) -> bool:
    """Make a shard, unless the one that is there holds these very files; whether it was made."""
    uri = storage.join(output_uri, name)
    version = hashlib.sha256("".join(f"{row['member']}\0{row['size']}\0{row['etag']}\n" for row in rows).encode()).hexdigest()
    with _explained("output", output_uri):
        if is_there and _version(uri) == version:
            return False
    if canonical_uri(uri) != uri:
        raise UserError(f"--output {output_uri}: {name} is a link to {canonical_uri(uri)}, and nothing is written there; remove the link.")
    with _explained("input", input_uri):
        shard = _tar(input_uri, rows, version)
    with _explained("output", output_uri):
        storage.put_whole(uri, shard)
    return True


def _tar(input_uri: str, rows: list[dict[str, Any]], version: str) -> bytes:
    """A shard of these files. Raises UserError if one of them is not what was listed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": version}) as tar:
        for row, sample in zip(rows, read_files(input_uri, rows, SHARD_BYTES), strict=True):
            if sample.error == "too_large":
                raise UserError(f"--input {input_uri}: {row['path']} has {row['size']:,} bytes, which is more than an image should have; "
                                "take it away and run it again, what is packed is kept.")
            if sample.error:
                why = "was replaced since it was listed" if sample.error == "replaced" else "is gone, or may not be read any more"
                raise UserError(f"--input {input_uri}: {row['path']} {why}; run it again, what is packed is kept.")
            info = tarfile.TarInfo(row["member"])  # no time, no owner: the same images make the same bytes
            info.size = len(sample.encoded)
            tar.addfile(info, io.BytesIO(sample.encoded))
    return buffer.getvalue()


def _version(uri: str) -> str | None:
    """What a shard's first header says it holds."""
    with storage.open_read(uri) as (file, _):
        start = io.BytesIO(file.read(2**16))
    try:
        with tarfile.open(fileobj=start, mode="r:") as tar:
            return tar.pax_headers.get("comment")
    except tarfile.TarError:
        return None
