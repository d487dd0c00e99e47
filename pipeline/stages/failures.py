"""An error of a stage -> failed segments, in words that lead to the place of the error.

In: any exception of a stage. Out: a block of failed segments, so that the run goes on and the ledger says why.
Without such a block Ray drops the input of the call, and the run can only say that a process died.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import CaughtError
from pipeline.formats.kept import NotOfType
from pipeline.formats.samples import ShardUnreadable
from pipeline.stages.batch import fail_segment, pack_failures, segments_of
from pipeline.store.retry import Replaced, describe_error

FRAMES = 4  # of a traceback, the last ones
_EXPECTED = (OSError, ShardUnreadable, NotOfType, Replaced, MemoryError)  # their messages say enough
_STORE_PACKAGES = ("botocore", "aiobotocore", "aiohttp", "s3fs", "fsspec", "gcsfs", "google", "azure",
                   "huggingface_hub", "httpx2")


def describe_failure(error: Exception) -> str:
    """An error in one line. For an unexpected error, the last places of its traceback follow, the innermost first."""
    if isinstance(error, _EXPECTED) or type(error).__module__.partition(".")[0] in _STORE_PACKAGES:
        return describe_error(error)
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    places = [f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}: {frame.line}" for frame in reversed(frames)]
    return " | ".join([f"{type(error).__name__}: {describe_error(error)}", *places])


def report_failures(schema: pa.Schema) -> Callable[[Callable[..., Any]], Callable[..., Iterator[pa.Table]]]:
    """Decorate the `__call__` of a stage, so that it never raises: an error becomes failed segments of all shards of
    the call.

    Args:
        schema: of the tables that the stage returns.
    """
    def decorate(call: Callable[..., Any]) -> Callable[..., Iterator[pa.Table]]:
        @wraps(call)
        def call_and_report(self: Any, table: pa.Table) -> Iterator[pa.Table]:
            with CaughtError() as caught:  # the run goes on without these shards
                result = call(self, table)
                if isinstance(result, pa.Table):
                    yield result
                else:
                    yield from result
            if caught.error is not None:
                failure = describe_failure(caught.error)  # retryable: in the next attempt each shard comes alone
                yield pack_failures(schema, [fail_segment(segment, failure, True) for segment in _segments_in(table)])
        return call_and_report
    return decorate


def _segments_in(table: pa.Table) -> list[dict[str, Any]]:
    """The segments of all rows; for the table of a reader, its shards."""
    if "segments" not in table.column_names:
        return list(table.select(["number", "shard", "uri"]).to_pylist())
    return [segment for row in range(table.num_rows) for segment in segments_of(table, row)]
