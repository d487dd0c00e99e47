"""Loose image files -> groups that stand for shards, and the samples of a group.

In: a listing with times. Out: a table of `GROUPS`, a group for about a thousand files each; the samples of one group.
The files are ordered by the time of their last change. So new files come last, and only the last group is labelled
again. A file that is changed or removed causes only its own group to be labelled again.
A group begins at a file whose path says so: the CRC of the path can be divided by `FILES_EACH`. Groups are not counted
from the start, so a change in one group moves no border of another.
Not here: decoding; which groups are pending.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import cast

import pyarrow as pa

from pipeline.formats.kept import KEPT
from pipeline.formats.samples import Sample
from pipeline.store.listing import FILES
from pipeline.store.local_files import MISSING, REFUSED
from pipeline.store.retry import Replaced, with_retries
from pipeline.store.storage import child, is_no_file, open_read

MEMBER_FIELDS = [*FILES, pa.field("kept", KEPT)]  # kept: the values that a manifest has for the file; else null
MEMBERS = pa.list_(pa.struct(MEMBER_FIELDS))
# path: the name of the group; size: bytes of all members; etag: a digest of the list of members
GROUPS = pa.schema([*FILES, ("members", MEMBERS)])
FILES_EACH, MAX_FILES_EACH = 1000, 4000
NOT_READ = {MISSING: "not_a_file", REFUSED: "unreadable"}  # reason code of each mark that a listing has for an etag
READS_AT_ONCE = 8
MAX_BYTES_AHEAD = 2**26


def group_files(files: pa.Table) -> pa.Table:
    """The groups of a table of `FILES` with a column `changed` (seconds), as a table of `GROUPS`."""
    return group_ordered_files(files.sort_by([("changed", "ascending"), ("path", "ascending")]))


def group_ordered_files(ordered: pa.Table) -> pa.Table:
    """The groups of a table of `FILES`, in its order, as a table of `GROUPS`. A column `kept` goes along."""
    paths, sizes, etags = (ordered[name].to_pylist() for name in FILES.names)
    kept = ordered["kept"] if "kept" in ordered.column_names else pa.chunked_array([pa.nulls(len(ordered), KEPT)])
    starts: list[int] = []
    for at, path in enumerate(paths):
        begins_group = path and zlib.crc32(path.encode()) % FILES_EACH == 0
        if not starts or begins_group or at - starts[-1] == MAX_FILES_EACH:
            starts.append(at)
    bounds = [*starts, len(paths)]
    names, versions = [], []
    for start, stop in pairwise(bounds):
        names.append(f"images-{hashlib.sha256(paths[start].encode()).hexdigest()[:12] if start else 'first'}")
        lines = "".join(f"{paths[at]}\0{sizes[at]}\0{etags[at]}\n" for at in range(start, stop))
        if kept.null_count < len(kept):
            lines += json.dumps(kept[start:stop].to_pylist())
        versions.append(hashlib.sha256(lines.encode()).hexdigest()[:32])
    files = ordered.select(FILES.names).append_column("kept", kept).combine_chunks().to_struct_array().combine_chunks()
    members = pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), files, type=MEMBERS)
    group_bytes = [sum(sizes[start:stop]) for start, stop in pairwise(bounds)]
    return pa.table([names, group_bytes, versions, members], schema=GROUPS)


def read_files(root: str, members: list[dict[str, object]], max_bytes: int) -> Iterator[Sample]:
    """The files of a group as samples. Some files are read ahead.

    The key of a sample is the path of its file, or its URI if a manifest lists it.

    A fault of one file does not stop the others. The sample has an error: `not_a_file` if the file is gone,
    `unreadable` if it may not be read, `replaced` if it has another version than was listed, `too_large` if it has
    more than `max_bytes`. Each of the first three gives the group another version in the next listing.

    Raises:
        OSError: another failure of the store.
    """
    with ThreadPoolExecutor(READS_AT_ONCE, "fetch") as pool:
        waiting: deque[tuple[Sample, int, Future[bytes] | None]] = deque()  # sample, bytes to read, reading
        bytes_ahead = 0
        try:
            for index, member in enumerate(members):
                path, size, etag = str(member["path"]), int(str(member["size"])), str(member["etag"])
                error = NOT_READ.get(etag) or ("too_large" if size > max_bytes else None)
                uri = path if "://" in path or path.startswith("/") else child(root, path)
                kept = tuple(cast(list[str | None], member.get("kept") or ()))
                waiting.append((Sample(index, path, b"", error, kept=kept), 0 if error else size,
                                None if error else pool.submit(_read, uri, etag)))
                bytes_ahead += waiting[-1][1]
                while bytes_ahead > MAX_BYTES_AHEAD or len(waiting) > 4 * READS_AT_ONCE:
                    bytes_ahead -= waiting[0][1]
                    yield _finish_first(waiting)
            while waiting:
                yield _finish_first(waiting)
        finally:
            for *_, reading in waiting:
                if reading:
                    reading.cancel()


def _finish_first(waiting: deque[tuple[Sample, int, Future[bytes] | None]]) -> Sample:
    """Remove the first sample from the queue and return it with its bytes, or with an error."""
    sample, _, reading = waiting.popleft()
    if reading is None:
        return sample
    try:
        return replace(sample, encoded=reading.result())
    except Replaced:
        error = "replaced"
    except PermissionError:
        error = "unreadable"
    except OSError as failure:
        if not is_no_file(failure):
            raise
        error = "not_a_file"
    return replace(sample, error=error)


def _read(uri: str, etag: str) -> bytes:
    """The bytes of a file. Raises Replaced if the file has another version."""
    def read_whole() -> bytes:
        with open_read(uri) as (file, version):
            if version.etag != etag:
                raise Replaced(f"{uri} was replaced since it was listed")
            data: bytes = file.read()
        if len(data) != version.size:
            raise ConnectionError(f"{uri}: the store sent {len(data)} bytes instead of {version.size}")
        return data

    return with_retries(read_whole)
