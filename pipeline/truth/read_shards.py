"""The shards of an input -> the truths that stand in them.

In: a URI, how its shards are read, and where the truth is. Out: a `ShardTruths` for each shard.
The shards are read on the cluster at RAY_ADDRESS, or by this machine's processors: no bytes of them come to the caller.
Not here: truths of a CSV (`csv_file.py`); which image a truth belongs to (`matching.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TextIO

import pyarrow as pa

from pipeline.actors.tasks import OpenMap
from pipeline.config import check_uri
from pipeline.errors import UserError
from pipeline.formats.samples import ShardUnreadable
from pipeline.inputs.find import find_shards
from pipeline.inputs.kinds import NONE_FOUND, ShardKind, kind_of_shard
from pipeline.inputs.read import Inputs, group_of, shard_uri
from pipeline.store.explain import explaining_errors
from pipeline.store.retry import Replaced, describe_error
from pipeline.store.uris import canonical_uri
from pipeline.truth.matching import GIVEN_TRUTHS, IMAGES

SHOW_S = 5.0  # between lines of progress


class ListedShard(NamedTuple):
    """A shard as it was listed.

    Attributes:
        path: relative to the input.
        size: bytes.
        group: its row of `GROUPS` if it is a group of loose images, else None.
    """

    path: str
    uri: str
    size: int
    group: dict[str, Any] | None

    @property
    def kind(self) -> ShardKind:
        """The kind of the shard."""
        return kind_of_shard(self.uri, self.group)


class ShardTruths(NamedTuple):
    """The truths of one shard. If the shard cannot be read to its end, the tables are empty.

    Attributes:
        given: a table of `GIVEN_TRUTHS`.
        images: a table of `IMAGES`.
        failed: the reason why the shard cannot be read, by the path of the shard; empty if it was read.
        spellings: pairs of a value and its text in the shard.
    """

    given: pa.Table
    images: pa.Table
    failed: dict[str, str]
    spellings: set[tuple[str, str]]


def list_shards(input_uri: str, format: str) -> list[ListedShard]:
    """The shards of an input.

    Raises:
        UserError: there are none, or they cannot be listed.
    """
    check_uri("input", input_uri)
    input_uri = canonical_uri(input_uri)
    with explaining_errors("--input", input_uri):
        found = find_shards(input_uri, format)
    rows = found.shards.to_pylist()
    if not rows:
        raise UserError(f"--input {input_uri} {NONE_FOUND}.")
    return [ListedShard(row["path"], shard_uri(found.root, row), row["size"], group_of(row)) for row in rows]


def read_shards(shards: Sequence[ListedShard], inputs: Inputs, where: str | None, open_map: OpenMap,
                stream: TextIO | None) -> list[ShardTruths]:
    """The truths of the shards, in their order.

    Args:
        where: the place of the truth in the shards, a value of `Inputs.truth`.
        open_map: gives the map by which the shards are read.
        stream: gets a line of progress now and then.

    Raises:
        NoCluster: there is no Ray at RAY_ADDRESS.
    """
    read = partial(_read_shard, replace(inputs, truth=where))
    results: list[ShardTruths] = []
    shown_s = time.monotonic()
    # Of a local tar only the headers are read.
    num_bytes = sum(shard.size for shard in shards if shard.kind.keys_need_all_bytes)
    with open_map(num_bytes) as run:
        for result in run(read, shards):
            results.append(result)
            if stream and time.monotonic() - shown_s > SHOW_S:
                shown_s = time.monotonic()
                print(f"truths of {len(results):,} of {len(shards):,} shards are read", file=stream, flush=True)
    return results


def _read_shard(inputs: Inputs, shard: ListedShard) -> ShardTruths:
    try:
        truths = inputs.read_truths(shard.uri, shard.group)
    except (ShardUnreadable, Replaced, OSError) as error:
        return ShardTruths(GIVEN_TRUTHS.empty_table(), IMAGES.empty_table(), {shard.path: describe_error(error)}, set())
    given = [{"shard": shard.path, "name": truth.key, "value": truth.truth, "strange": truth.strange}
             for truth in truths if truth.truth]
    keys = [truth.key for truth in truths if truth.is_image]
    return ShardTruths(pa.Table.from_pylist(given, schema=GIVEN_TRUTHS),
                       pa.table([[shard.path] * len(keys), keys], schema=IMAGES), {},
                       {(truth.truth, truth.spelling) for truth in truths if truth.truth and truth.spelling})

