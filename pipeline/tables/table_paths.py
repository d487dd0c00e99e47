"""Where the table of a shard lies: its own path, mirrored, but no folder that engines would take for a column of ours.

In: the path of a shard, relative to the input. Out: the path of its table below `labels/model=<model_id>/`; and back.
DuckDB, Polars, pyarrow, Spark and others read a folder `label=cat` as a column `label` with the value `cat`, and take that for
what the file itself says. Such a folder gets `in_` before its name: `in_label=cat`, a column that the tables do not have. What is
`in_label=cat` in the input becomes `in_in_label=cat`, so no two shards have one table. All other folders stay as they are.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.tables.labels import ROWS

SUFFIX, MARK = ".parquet", "in_"
# Those of the tables, our own partition's, and those that DuckDB adds.
_OURS = {*ROWS.names, "model", "filename", "file_row_number", "file_index"}
# A folder that says `name=`. DuckDB takes \ for / here; others take all before the first = for the name.
_NAME = re.compile(r"(?<![^/\\])((?:in_)*)([^/\\=]+)(?==[^/\\]*[/\\])")


def table_path(shard: str) -> str:
    """The table's path of a shard."""
    return _NAME.sub(lambda name: MARK + name[0] if _is_ours(name[2]) else name[0], shard) + SUFFIX


def shard_of(path: str) -> str | None:
    """The shard of a table's path; None where no shard's table lies, such as below `label=cat/`."""
    shard = _NAME.sub(lambda name: name[0].removeprefix(MARK) if _is_ours(name[2]) else name[0], path.removesuffix(SUFFIX))
    return shard if path == table_path(shard) else None


def table_paths(shards: pa.Array | pa.ChunkedArray) -> pa.Array:
    """`table_path` of each. A folder is looked at once: a million shards may be in few."""
    whole = shards.combine_chunks() if isinstance(shards, pa.ChunkedArray) else shards
    folders = pc.replace_substring_regex(whole, r"[^/\\]*$", "").dictionary_encode()
    moved = {folder: path for folder in folders.dictionary.to_pylist() if (path := table_path(folder).removesuffix(SUFFIX)) != folder}
    if moved:
        odd = pc.is_in(folders.dictionary, pa.array(moved, pa.string())).take(folders.indices)
        changed = [moved[folder] + path[len(folder):] for folder, path in zip(folders.filter(odd).to_pylist(), whole.filter(odd).to_pylist(), strict=True)]
        whole = pc.replace_with_mask(whole, odd, pa.array(changed, pa.string()))
    return pc.binary_join_element_wise(whole, SUFFIX, "")


def find_misread_folder(path: str) -> str | None:
    """The first folder of a path that engines take for a column of ours, if there is one."""
    return next((name[0] for name in _NAME.finditer(path + "/") if not name[1] and _is_ours(name[2])), None)


def _is_ours(name: str) -> bool:
    """Whether an engine may take this name for a column of ours: some unescape names, some do not tell capitals from small letters."""
    return unicodedata.normalize("NFKC", unquote(name)).casefold().strip() in _OURS
