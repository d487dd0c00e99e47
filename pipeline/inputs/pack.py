"""A folder of images -> WebDataset tar shards.

In: a local folder or any fsspec URI, searched for images recursively. Out: `<output>/<prefix>-00000.tar`, …, the same
bytes whenever the folder is the same, and nothing outside the output. Texts beside the images go along where they are asked for.
What is hidden, or a leftover of another tool, is not packed, nor what cannot be read. A shard says in its first header which versions of
which files it holds, so one that is there already is not made again.
Not here: keys and the names of members (`pack_members`).
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
from pipeline.inputs.pack_members import arrange, check_suffixes
from pipeline.store import storage
from pipeline.store.explain import check_atomic_put, explaining_errors
from pipeline.store.listing import list_files
from pipeline.store.uris import canonical_uri, is_same_place

SHARDS_AT_ONCE = 2  # that are in memory; of each, some files are read at once
SHARD_BYTES = 2**30  # a shard ends here, even if it has fewer images than asked for
TEXT_BYTES = 4 * 2**20  # of a text beside an image; what is larger was not meant
PREFIX_BYTES = 200  # a file name has at most 255, and tables and temporary files have longer names than their shards
TELL_EVERY_S = 10.0


@dataclass
class Packed:
    """What there is now: shards, images and texts in them, shards that were there before; and files that are not packed.

    `members`: the suffixes of the texts. `beside`: the files beside images of other suffixes.
    """

    members: tuple[str, ...]
    left_out: LeftOut = field(default_factory=LeftOut)
    beside: LeftOut = field(default_factory=LeftOut)
    num_shards: int = 0
    num_images: int = 0
    num_texts: int = 0
    num_kept: int = 0

    def sentences(self) -> list[str]:
        """What is not packed, one sentence for each reason; and the flag that would take along what lies beside images."""
        more = [row["suffix"][1:] for row in self.beside.rows() if row["suffix"] not in (NONE, OTHERS)]
        hint = f"; --members {','.join((*self.members, *more))} takes them along" if more else ""
        return self.left_out.sentences() + [told + hint for told in self.beside.sentences()]


def pack(input_uri: str, output_uri: str, images_per_shard: int, prefix: str, members: Sequence[str] = (), stream: TextIO = sys.stderr) -> Packed:
    """Write the shards that are not there yet; each is put whole.

    Args:
        members: suffixes of the texts that go along with the image they lie beside, without dots.

    Raises:
        UserError: the places, the prefix or the members cannot be meant; the folder does not exist or holds no image, or one of its files
            was changed or removed since it was listed, or may not be read; a text is too large; the output has shards of a larger folder,
            or cannot be written.
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
    files = _members(input_uri, output_uri, packed)
    firsts = [*pc.indices_nonzero(files["is_image"]).to_pylist(), len(files)]
    sizes = files["size"].to_pylist()
    bounds = list(_bounds([sum(sizes[start:stop]) for start, stop in pairwise(firsts)], images_per_shard))
    names = [f"{prefix}-{number:05}.tar" for number in range(len(bounds))]
    with explaining_errors("--output", output_uri):
        there = _listed(output_uri)
    surplus = sorted(name for name in set(there) - set(names) if re.fullmatch(rf"{re.escape(prefix)}-\d{{5,}}\.tar", name))
    if surplus:
        raise UserError(f"--output {output_uri} has {surplus[0]}, which this folder does not fill ({len(names)} shards): its images "
                        "might be there twice; remove it, or choose another --output or --prefix.")
    told_at, known = time.monotonic(), set(there)

    def write(name: str, start: int, stop: int) -> bool:
        rows = files.slice(firsts[start], firsts[stop] - firsts[start]).to_pylist()
        return _write(input_uri, output_uri, name, rows, name in known)

    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        coming = [pool.submit(write, name, *bound) for name, bound in zip(names, bounds, strict=True)]
        try:
            for (start, stop), made in zip(bounds, coming, strict=True):
                packed.num_kept += not made.result()
                packed.num_shards += 1
                packed.num_images += stop - start
                packed.num_texts += firsts[stop] - firsts[start] - (stop - start)
                if time.monotonic() - told_at > TELL_EVERY_S:
                    told_at = time.monotonic()
                    stream.write(f"{packed.num_images:,} of {len(firsts) - 1:,} images, {packed.num_shards:,} of {len(names):,} shards\n")
        finally:
            pool.shutdown(cancel_futures=True)
    return packed


def _check_prefix(prefix: str) -> None:
    """Raise UserError unless names that begin so are files of the output, which the job takes for shards."""
    if not prefix.strip() or prefix[0] in "._" or not prefix.isprintable() or {*"/\\"} & {*prefix} or len(prefix.encode()) > PREFIX_BYTES:
        shown = repr(prefix) if len(prefix) <= PREFIX_BYTES else f"{prefix[:20]!r}… ({len(prefix):,} letters)"
        raise UserError(f"--prefix is {shown}; shards are files of --output and their names begin with it: it takes up to {PREFIX_BYTES} "
                        "bytes, no / and \\ and no control characters, and begins neither with . nor with _, which jobs/label.py passes over.")


def _members(input_uri: str, output_uri: str, packed: Packed) -> pa.Table:
    """The members of all shards in order, as `pack_members.MEMBERS`; what is left out is counted in `packed`."""
    with explaining_errors("--input", input_uri):
        images, others, left_out = find_images(input_uri, output_uri)
    packed.left_out = left_out
    for mark, reason in NOT_READ.items():
        odd = pc.equal(images["etag"], mark)
        left_out.add_paths(reason, images.filter(odd)["path"])
        images = images.filter(pc.invert(odd))
    members = arrange(images, others, packed.members, left_out, packed.beside)
    if not len(images):
        raise UserError(f"--input {input_uri} holds no image ({', '.join(IMAGE_SUFFIXES)}){''.join('; ' + one for one in left_out.sentences())}.")
    large = members.filter(pc.and_(pc.invert(members["is_image"]), pc.greater(members["size"], TEXT_BYTES)))
    for row in large[:1].to_pylist():
        raise UserError(f"--input {input_uri}: {row['path']} has {row['size']:,} bytes, and a text beside an image has {TEXT_BYTES:,} at most; "
                        "take it away, or its suffix out of --members.")
    return members


def _listed(output_uri: str) -> list[str]:
    try:
        paths: list[str] = list_files(output_uri)["path"].to_pylist()
    except FileNotFoundError:
        return []
    return paths


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
    with explaining_errors("--output", output_uri):
        if is_there and _version(uri) == version:
            return False
    if canonical_uri(uri) != uri:
        raise UserError(f"--output {output_uri}: {name} is a link to {canonical_uri(uri)}, and nothing is written there; remove the link.")
    with explaining_errors("--input", input_uri):
        shard = _tar(input_uri, rows, version)
    with explaining_errors("--output", output_uri):
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
