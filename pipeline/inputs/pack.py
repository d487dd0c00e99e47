"""A folder of images -> WebDataset tar shards.

In: a folder, local or any fsspec URI. It is searched for images recursively.
Out: `<output>/<prefix>-00000.tar`, … and nothing outside the output. The same folder always gives the same bytes. On
request the texts beside the images are packed too.
Hidden files, files that other tools left behind and files that cannot be read are not packed. The first header of a
shard has a digest of its files and their versions, so a shard that exists already is not made again.
Not here: keys and the names of members (`pack_members.py`).
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import check_uri
from pipeline.errors import UserError
from pipeline.formats.left_out import IMAGE_SUFFIXES, NONE, OTHERS, LeftOut
from pipeline.formats.loose import NOT_READ, read_files
from pipeline.inputs.find import find_images
from pipeline.inputs.pack_members import check_suffixes, order_members
from pipeline.store import storage
from pipeline.store.explain import check_atomic_put, explaining_errors
from pipeline.store.listing import list_files
from pipeline.store.uris import canonical_uri, is_same_place

SHARDS_AT_ONCE = 2  # in memory; some files of each are read at once
SHARD_BYTES = 2**30  # a shard ends here, even if it has fewer images than the user asked for
MAX_TEXT_BYTES = 4 * 2**20  # of a text beside an image; a larger file is hardly a label
# A file name has at most 255 bytes; tables and temporary files have longer names than their shards.
MAX_PREFIX_BYTES = 200
REPORT_EVERY_S = 10.0


@dataclass
class Packed:
    """The result of packing.

    Attributes:
        members: the suffixes of the packed texts.
        left_out: the files that are not packed, except
        beside: the files beside images whose suffixes the user did not name.
        num_shards, num_images, num_texts: of the whole output.
        num_kept: shards that existed already.
    """

    members: tuple[str, ...]
    left_out: LeftOut = field(default_factory=LeftOut)
    beside: LeftOut = field(default_factory=LeftOut)
    num_shards: int = 0
    num_images: int = 0
    num_texts: int = 0
    num_kept: int = 0

    def sentences(self) -> list[str]:
        """One sentence for each reason why files are not packed, with the flag that would pack files beside images."""
        more = [row["suffix"][1:] for row in self.beside.rows() if row["suffix"] not in (NONE, OTHERS)]
        hint = f"; --members {','.join((*self.members, *more))} takes them along" if more else ""
        return self.left_out.sentences() + [sentence + hint for sentence in self.beside.sentences()]


def pack(input_uri: str, output_uri: str, images_per_shard: int, prefix: str, members: Sequence[str] = (),
         stream: TextIO = sys.stderr) -> Packed:
    """Write the shards that do not exist yet; each is put whole.

    Args:
        members: suffixes, without dots, of the texts beside the images that are packed too.
        stream: for progress.

    Raises:
        UserError: the places, the prefix or the suffixes cannot be meant; the folder does not exist or holds no image;
            one of its files was changed or removed since it was listed, or may not be read; a text is too large; the
            output has shards of a larger folder, or cannot be written.
    """
    suffixes = check_suffixes(members)
    _check_prefix(prefix)
    check_uri("input", input_uri)
    check_uri("output", output_uri)
    input_uri, output_uri = canonical_uri(input_uri), canonical_uri(output_uri)
    if is_same_place(input_uri, output_uri):
        raise UserError("--input and --output name the same place; the shards need a folder of their own.")
    check_atomic_put("--output", output_uri)
    packed = Packed(suffixes)
    files = _list_members(input_uri, output_uri, packed)
    first_rows = [*pc.indices_nonzero(files["is_image"]).to_pylist(), len(files)]  # of each image and its texts
    sizes = files["size"].to_pylist()
    image_bytes = [sum(sizes[start:stop]) for start, stop in pairwise(first_rows)]
    bounds = list(_bounds(image_bytes, images_per_shard))
    names = [f"{prefix}-{number:05}.tar" for number in range(len(bounds))]
    existing = _list_existing(output_uri, prefix, names)

    def write(name: str, start: int, stop: int) -> bool:
        rows = files.slice(first_rows[start], first_rows[stop] - first_rows[start]).to_pylist()
        return _write(input_uri, output_uri, name, rows, name in existing)

    reported_at = time.monotonic()
    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        writing = [pool.submit(write, name, *bound) for name, bound in zip(names, bounds, strict=True)]
        try:
            for (start, stop), is_new in zip(bounds, writing, strict=True):
                packed.num_kept += not is_new.result()
                packed.num_shards += 1
                packed.num_images += stop - start
                packed.num_texts += first_rows[stop] - first_rows[start] - (stop - start)
                if time.monotonic() - reported_at > REPORT_EVERY_S:
                    reported_at = time.monotonic()
                    stream.write(f"{packed.num_images:,} of {len(first_rows) - 1:,} images, "
                                 f"{packed.num_shards:,} of {len(names):,} shards\n")
        finally:
            pool.shutdown(cancel_futures=True)
    return packed


def _check_prefix(prefix: str) -> None:
    """Raise UserError unless names with this prefix are files of the output that the job takes for shards."""
    has_slash = "/" in prefix or "\\" in prefix
    is_too_long = len(prefix.encode("utf-8", "surrogateescape")) > MAX_PREFIX_BYTES
    if not prefix.strip() or prefix[0] in "._" or not prefix.isprintable() or has_slash or is_too_long:
        is_short = len(prefix) <= MAX_PREFIX_BYTES
        shown = repr(prefix) if is_short else f"{prefix[:20]!r}… ({len(prefix):,} letters)"
        raise UserError(f"--prefix is {shown}; shards are files of --output and their names begin with it: it takes "
                        f"up to {MAX_PREFIX_BYTES} bytes, no / and \\ and no control characters, and begins neither "
                        "with . nor with _, which jobs/label.py passes over.")


def _list_members(input_uri: str, output_uri: str, packed: Packed) -> pa.Table:
    """The members of all shards in order, a table of `pack_members.MEMBERS`. Other files are counted in `packed`."""
    with explaining_errors("--input", input_uri):
        images, others, left_out = find_images(input_uri, output_uri)
    packed.left_out = left_out
    for mark, reason in NOT_READ.items():
        is_odd = pc.equal(images["etag"], mark)
        left_out.add_paths(reason, images.filter(is_odd)["path"])
        images = images.filter(pc.invert(is_odd))
    members = order_members(images, others, packed.members, left_out, packed.beside)
    if not len(images):
        notes = "".join("; " + sentence for sentence in left_out.sentences())
        raise UserError(f"--input {input_uri} holds no image ({', '.join(IMAGE_SUFFIXES)}){notes}.")
    is_large_text = pc.and_(pc.invert(members["is_image"]), pc.greater(members["size"], MAX_TEXT_BYTES))
    for row in members.filter(is_large_text)[:1].to_pylist():
        raise UserError(f"--input {input_uri}: {row['path']} has {row['size']:,} bytes, and a text beside an image has "
                        f"{MAX_TEXT_BYTES:,} at most; take it away, or its suffix out of --members.")
    return members


def _list_existing(output_uri: str, prefix: str, names: list[str]) -> set[str]:
    """The files of the output. Raises UserError if one is a shard that this folder does not fill."""
    with explaining_errors("--output", output_uri):
        try:
            existing = set(list_files(output_uri)["path"].to_pylist())
        except FileNotFoundError:
            existing = set()
    is_shard = re.compile(rf"{re.escape(prefix)}-\d{{5,}}\.tar").fullmatch
    surplus = sorted(name for name in existing - set(names) if is_shard(name))
    if surplus:
        raise UserError(f"--output {output_uri} has {surplus[0]}, which this folder does not fill ({len(names)} "
                        "shards): its images might be there twice; remove it, or choose another --output or --prefix.")
    return existing


def _bounds(image_bytes: list[int], images_per_shard: int) -> Iterator[tuple[int, int]]:
    """The numbers of the first image of each shard, and of the first image behind it."""
    start, shard_bytes = 0, 0
    for number, num_bytes in enumerate(image_bytes):
        if number - start == images_per_shard or (number > start and shard_bytes + num_bytes > SHARD_BYTES):
            yield start, number
            start, shard_bytes = number, 0
        shard_bytes += num_bytes
    yield start, len(image_bytes)


def _write(input_uri: str, output_uri: str, name: str, rows: list[dict[str, Any]], exists: bool) -> bool:
    """Write a shard, unless the existing shard holds these files in these versions. Returns True if it was written."""
    uri = storage.join(output_uri, name)
    lines = "".join(f"{row['member']}\0{row['size']}\0{row['etag']}\n" for row in rows)
    digest = hashlib.sha256(lines.encode()).hexdigest()
    with explaining_errors("--output", output_uri):
        if exists and _read_digest(uri) == digest:
            return False
    if canonical_uri(uri) != uri:
        raise UserError(f"--output {output_uri}: {name} is a link to {canonical_uri(uri)}, and nothing is written "
                        "there; remove the link.")
    with explaining_errors("--input", input_uri):
        shard = _make_tar(input_uri, rows, digest)
    with explaining_errors("--output", output_uri):
        storage.put_whole(uri, shard)
    return True


def _make_tar(input_uri: str, rows: list[dict[str, Any]], digest: str) -> bytes:
    """The bytes of a shard. Raises UserError if a file is not what was listed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": digest}) as tar:
        for row, sample in zip(rows, read_files(input_uri, rows, SHARD_BYTES), strict=True):
            if sample.error == "too_large":
                raise UserError(f"--input {input_uri}: {row['path']} has {row['size']:,} bytes, which is more than an "
                                "image should have; take it away and run it again, what is packed is kept.")
            if sample.error:
                was_replaced = sample.error == "replaced"
                reason = "was replaced since it was listed" if was_replaced else "is gone, or may not be read any more"
                raise UserError(f"--input {input_uri}: {row['path']} {reason}; run it again, what is packed is kept.")
            info = tarfile.TarInfo(row["member"])  # no time, no owner: the same images give the same bytes
            info.size = len(sample.encoded)
            tar.addfile(info, io.BytesIO(sample.encoded))
    return buffer.getvalue()


def _read_digest(uri: str) -> str | None:
    """The digest in the first header of a shard; None if it has none."""
    with storage.open_read(uri) as (file, _):
        start = io.BytesIO(file.read(2**16))
    try:
        with tarfile.open(fileobj=start, mode="r:") as tar:
            return tar.pax_headers.get("comment")
    except tarfile.TarError:
        return None
