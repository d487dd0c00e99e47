"""Loose image files -> groups that stand for shards, and their samples.

In: a listing with times. Out: `GROUPS`: a shard of about a thousand files each; and the samples of one.
Files are taken in order of their last change, so what is new comes last and redoes the last group only; a file that is
changed or removed redoes the group it was in. A group begins where a file's path says so (its CRC divides by
`FILES_EACH`), never by counting from the start: what happens in one group moves no border of another.
Not here: decoding, and what is pending.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import pyarrow as pa

from pipeline.formats.tar import Sample
from pipeline.store.listing import FILES
from pipeline.store.local_files import MISSING, REFUSED
from pipeline.store.retry import Replaced, with_retries
from pipeline.store.storage import child, is_no_file, open_read

MEMBERS = pa.list_(pa.struct(list(FILES)))
GROUPS = pa.schema([*FILES, ("members", MEMBERS)])  # path: the group's name; size: of all; etag: of the list of members
FILES_EACH, MOST_EACH = 1000, 4000
NOT_READ = {MISSING: "not_a_file", REFUSED: "unreadable"}  # the reason code by what stands instead of an etag
READS_AT_ONCE = 8
AHEAD_BYTES = 2**26


def group_files(files: pa.Table) -> pa.Table:
    """The groups of a table of `FILES` with a column `changed` (seconds), as a table of `GROUPS`."""
    return group_ordered_files(files.sort_by([("changed", "ascending"), ("path", "ascending")]))


def group_ordered_files(ordered: pa.Table) -> pa.Table:
    """The groups of a table of `FILES` whose order is kept."""
    paths, sizes, etags = (ordered[name].to_pylist() for name in FILES.names)
    starts: list[int] = []
    for at, path in enumerate(paths):
        if not starts or path and zlib.crc32(path.encode()) % FILES_EACH == 0 or at - starts[-1] == MOST_EACH:
            starts.append(at)
    bounds = [*starts, len(paths)]
    names, versions = [], []
    for start, stop in pairwise(bounds):
        names.append(f"images-{hashlib.sha256(paths[start].encode()).hexdigest()[:12] if start else 'first'}")
        listed = "".join(f"{paths[at]}\0{sizes[at]}\0{etags[at]}\n" for at in range(start, stop))
        versions.append(hashlib.sha256(listed.encode()).hexdigest()[:32])
    files = ordered.select(FILES.names).combine_chunks().to_struct_array().combine_chunks()
    members = pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), files, type=MEMBERS)
    return pa.table([names, [sum(sizes[start:stop]) for start, stop in pairwise(bounds)], versions, members], schema=GROUPS)


def read_files(root: str, members: list[dict[str, object]], max_bytes: int) -> Iterator[Sample]:
    """The files of a group as samples, their keys their paths (of a manifest: URIs); some files are read ahead.

    A file that is gone has error `not_a_file`, one that may not be read `unreadable`, one of another version than was listed
    `replaced`: it must not stop the others, and changes the group's version in the next listing.
    """
    with ThreadPoolExecutor(READS_AT_ONCE, "fetch") as pool:
        coming: deque[tuple[Sample, int, Future[bytes] | None]] = deque()
        ahead = 0
        try:
            for index, member in enumerate(members):
                path, size, etag = str(member["path"]), int(str(member["size"])), str(member["etag"])
                error = NOT_READ.get(etag) or ("too_large" if size > max_bytes else None)
                uri = path if "://" in path or path.startswith("/") else child(root, path)
                coming.append((Sample(index, path, b"", error), 0 if error else size,
                               None if error else pool.submit(_read, uri, etag)))
                ahead += coming[-1][1]
                while ahead > AHEAD_BYTES or len(coming) > 4 * READS_AT_ONCE:
                    ahead -= coming[0][1]
                    yield _taken(coming)
            while coming:
                yield _taken(coming)
        finally:
            for *_, read in coming:
                if read:
                    read.cancel()


def _taken(coming: deque[tuple[Sample, int, Future[bytes] | None]]) -> Sample:
    sample, _, read = coming.popleft()
    if read is None:
        return sample
    try:
        return Sample(sample.index, sample.key, read.result(), None)
    except Replaced:
        error = "replaced"
    except PermissionError:
        error = "unreadable"
    except OSError as failed:
        if not is_no_file(failed):
            raise
        error = "not_a_file"
    return Sample(sample.index, sample.key, b"", error)


def _read(uri: str, etag: str) -> bytes:
    def whole() -> bytes:
        with open_read(uri) as (file, version):
            if version.etag != etag:
                raise Replaced(f"{uri} was replaced since it was listed")
            data: bytes = file.read()
        if len(data) != version.size:
            raise ConnectionError(f"{uri}: the store sent {len(data)} bytes instead of {version.size}")
        return data

    return with_retries(whole)
