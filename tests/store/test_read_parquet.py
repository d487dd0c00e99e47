"""A table is read from memory as pyarrow reads it, and no thread of Arrow's has a part in it."""

import io
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.store.read_parquet import read_table

THREADS = """
import os, sys
from pipeline.store.read_parquet import read_table
data = sys.stdin.buffer.read()
before = len(os.listdir("/proc/self/task"))
assert len(read_table(data)) == 1000
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.fixture
def data():
    table = pa.table({"key": [f"k{n}" for n in range(1000)], "index": range(1000),
                      "top": [[n, n + 1] for n in range(1000)]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=300)
    return buffer.getvalue()


def test_a_table_as_pyarrow_reads_it(data):
    assert read_table(data).equals(pq.read_table(io.BytesIO(data)))
    assert read_table(data, ["top", "key"]).equals(pq.read_table(io.BytesIO(data), columns=["top", "key"]))


def test_no_thread_is_started(data):
    done = subprocess.run([sys.executable, "-c", THREADS], input=data, capture_output=True, check=True)
    assert done.stdout == b"0\n"


def test_what_cannot_be_read_is_invalid(data):
    for broken in (b"", data[:-10], data[:200] + bytes(400) + data[600:], data[:-30] + b"\xff" * 22 + data[-8:]):
        with pytest.raises(pa.ArrowInvalid):
            read_table(broken)
    with pytest.raises(KeyError, match="nobody"):
        read_table(data, ["key", "nobody"])
