"""An error of a stage -> failures of its shards, told in words that lead to the place.

In: any exception of a stage. Out: a block of failed segments, so that the run goes on and the ledger says why. Without this
Ray drops what the stage had in hand, and all that could be said is that a process died.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.formats.tar import ShardUnreadable
from pipeline.stages.batch import fail, pack_failures, segments_of
from pipeline.store.retry import Replaced, describe_error

FRAMES = 4  # of a traceback, the last ones
_EXPECTED = (OSError, ShardUnreadable, Replaced, MemoryError)  # they say enough by themselves
_OF_A_STORE = ("botocore", "aiobotocore", "aiohttp", "s3fs", "fsspec")


def describe_failure(error: Exception) -> str:
    """An error in one line; of one that nobody expected with the last places of its traceback, the innermost first."""
    if isinstance(error, _EXPECTED) or type(error).__module__.partition(".")[0] in _OF_A_STORE:
        return describe_error(error)
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    places = [f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}: {frame.line}" for frame in reversed(frames)]
    return " | ".join([f"{type(error).__name__}: {describe_error(error)}", *places])


def tell_failures(schema: pa.Schema) -> Callable[[Callable[..., Any]], Callable[..., Iterator[pa.Table]]]:
    """A stage's `__call__` that never raises: what it raised becomes failures of the shards that it was called with."""
    def decorate(call: Callable[..., Any]) -> Callable[..., Iterator[pa.Table]]:
        @wraps(call)
        def told_call(self: Any, table: pa.Table) -> Iterator[pa.Table]:
            try:
                made = call(self, table)
                if isinstance(made, pa.Table):
                    yield made
                else:
                    yield from made
            except Exception as error:  # noqa: BLE001  # whatever it is, the run goes on without these shards
                failure = describe_failure(error)  # worth another attempt: alone, each shard shows whether it is to blame
                yield pack_failures(schema, [fail(segment, failure, True) for segment in _shards_in(table)])
        return told_call
    return decorate


def _shards_in(table: pa.Table) -> list[dict[str, Any]]:
    """The segments of all rows, or the shards that a reader was called with."""
    if "segments" not in table.column_names:
        return list(table.select(["number", "shard", "uri"]).to_pylist())
    return [segment for row in range(table.num_rows) for segment in segments_of(table, row)]
