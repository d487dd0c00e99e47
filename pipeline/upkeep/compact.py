"""Many small files of the ledger -> one file a month, so that planning reads tens of files and not thousands.

In: the tables `shards` and `runs` of an output. Out: the same rows in fewer files. A merged file, such as
`202611.parquet`, is put before the files that it replaces are removed. A process that is killed between the two leaves
rows twice: the views of `query` count them once, and the next merge makes them one.
Not here: the tables of labels, which have a file for each shard.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import pyarrow as pa

from pipeline.store import storage
from pipeline.tables import ledger
from pipeline.tables.label_files import READS_AT_ONCE
from pipeline.tables.ledger_rows import RUNS, SHARDS
from pipeline.tables.table_paths import SUFFIX

MOST_LOOSE = 32  # files of single runs in both tables that stay as they are
LARGE_BYTES = 32 * 2**20  # merged files get no larger than about this, so that they fit in memory
_LOOSE = re.compile(r"(\d{6})\d\dT\d{6}.*")  # the name of a file of one run; the group is the month
_KEYS = {"shards": ["run_id", "shard", "model_id", "status"], "runs": ["run_id"]}
_SCHEMAS = {"shards": SHARDS, "runs": RUNS}

_File = tuple[str, int]  # path relative to the folder of the table, size in bytes


def compact_ledger(output: str, check: Callable[[], None]) -> None:
    """Merge the files of single runs, once there are more than `MOST_LOOSE`. The caller holds the lease.

    Files that cannot be read stay, and so do those of runs that have not ended.

    Args:
        check: called before each change; an error of it ends the merge.
    """
    files = {table: ledger.list_sizes(output, table) for table in _KEYS}
    loose = {table: [file for file in files[table] if _LOOSE.fullmatch(file[0])] for table in _KEYS}
    if sum(map(len, loose.values())) <= MOST_LOOSE:
        return
    running = tuple(_list_running(output, loose["runs"]))
    for table, small in loose.items():
        ended = [file for file in small if not file[0].startswith(running)]
        for month, of_month in groupby(sorted(ended), lambda file: file[0][:6]):
            merged = [file for file in files[table] if re.fullmatch(rf"{month}(-\d+)?\{SUFFIX}", file[0])]
            for name, group in _pack(month, merged, list(of_month)):
                check()
                others = [path for path, _ in merged if path != name]
                _merge(output, table, name, [path for path, _ in group], others)


def _list_running(output: str, files: Iterable[_File]) -> Iterator[str]:
    """The ids of the runs that have not ended."""
    for path, _ in files:
        for row in ledger.read_runs(output, path, []):
            if row.status == "running":
                yield row.run_id


def _pack(month: str, merged: list[_File], loose: list[_File]) -> Iterator[tuple[str, list[_File]]]:
    """The names of the merged files to write, each with the files whose rows it gets."""
    number = max(len(merged) - 1, 0)
    group = [file for file in merged if file[0] == _name(month, number)]
    for file in loose:
        if group and sum(size for _, size in group) + file[1] > LARGE_BYTES:
            if len(group) > 1 or group[0][0] != _name(month, number):
                yield _name(month, number), group
            number, group = number + 1, []
        group.append(file)
    if len(group) > 1 or group[0][0] != _name(month, number):
        yield _name(month, number), group


def _name(month: str, number: int) -> str:
    return f"{month}{f'-{number}' if number else ''}{SUFFIX}"


def _merge(output: str, table: str, name: str, paths: list[str], others: list[str]) -> None:
    """Put the rows of files as one file, and remove the other files.

    Args:
        others: the other merged files of the month. A killed merge may have put rows there already.
    """
    keys = _KEYS[table]
    key_schema = pa.schema([_SCHEMAS[table].field(key) for key in keys])

    def read(path: str) -> tuple[str, pa.Table] | None:
        damaged: list[str] = []
        rows = ledger.read_rows(output, table, path, _SCHEMAS[table], damaged)
        return None if damaged else (path, rows)

    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        read_files = [found for found in pool.map(read, sorted(paths, reverse=True)) if found is not None]
    if name in paths and name not in {path for path, _ in read_files}:
        return  # the merged file is damaged: it stays for a person to look at, and the others with it
    known = [key_schema.empty_table(), *(ledger.read_rows(output, table, path, key_schema, []) for path in others)]
    rows = _unique(pa.concat_tables(rows for _, rows in read_files), pa.concat_tables(known))
    ledger.put_rows(output, table, name.removesuffix(SUFFIX), rows)
    for path, _ in read_files:
        if path != name:
            storage.remove(storage.join(output, table, path))


def _unique(rows: pa.Table, known: pa.Table) -> pa.Table:
    """The first row of each key that is not known, in order. `known`: has the columns of the key."""
    keys = known.column_names
    numbered = rows.select(keys).append_column("number", pa.array(range(len(rows)), pa.int64()))
    new = numbered.join(known, keys, join_type="left anti")
    first = new.group_by(keys).aggregate([("number", "min")])["number_min"]
    return rows.take(pa.array(sorted(first.to_pylist()), pa.int64()))
