"""The path of the table of a shard: the shard's own path, mirrored, but without folders that engines take for our
columns.

In: the path of a shard, relative to the input. Out: the path of its table below `labels/model=<model_id>/`; and back.
DuckDB, Polars, pyarrow, Spark and others read a folder `label=cat` as a column `label` with the value `cat`, in the
place of the column of the file itself. Such a folder gets `in_` before its name: `in_label=cat` is a column that the
tables do not have. A folder `in_label=cat` of the input becomes `in_in_label=cat`, so no two shards share a table.
All other folders stay as they are.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.tables.labels import ROWS

SUFFIX, MARK = ".parquet", "in_"
# The columns of the tables, of our own partition, and those that DuckDB adds.
_OUR_COLUMNS = {*ROWS.names, "model", "filename", "file_row_number", "file_index"}
# A folder with `name=`. DuckDB takes \ for / here; other engines take all text before the first = for the name.
_NAME = re.compile(r"(?<![^/\\])((?:in_)*)([^/\\=]+)(?==[^/\\]*[/\\])")


def table_path(shard: str) -> str:
    """The path of the table of a shard."""
    return _NAME.sub(lambda name: MARK + name[0] if is_our_column(name[2]) else name[0], shard) + SUFFIX


def shard_of(path: str) -> str | None:
    """The shard of the path of a table; None for a path where no table lies, such as below `label=cat/`."""
    mirrored = path.removesuffix(SUFFIX)
    shard = _NAME.sub(lambda name: name[0].removeprefix(MARK) if is_our_column(name[2]) else name[0], mirrored)
    return shard if path == table_path(shard) else None


def table_paths(shards: pa.Array | pa.ChunkedArray) -> pa.Array:
    """`table_path` of each shard. Each folder is looked at once, since a million shards may lie in few folders."""
    paths = shards.combine_chunks() if isinstance(shards, pa.ChunkedArray) else shards
    folders = pc.replace_substring_regex(paths, r"[^/\\]*$", "").dictionary_encode()
    changed = {folder: mirrored for folder in folders.dictionary.to_pylist()
               if (mirrored := table_path(folder).removesuffix(SUFFIX)) != folder}
    if changed:
        is_changed = pc.is_in(folders.dictionary, pa.array(changed, pa.string())).take(folders.indices)
        pairs = zip(folders.filter(is_changed).to_pylist(), paths.filter(is_changed).to_pylist(), strict=True)
        mirrored_paths = [changed[folder] + path[len(folder):] for folder, path in pairs]
        paths = pc.replace_with_mask(paths, is_changed, pa.array(mirrored_paths, pa.string()))
    return pc.binary_join_element_wise(paths, SUFFIX, "")


def find_misread_folder(path: str) -> str | None:
    """The first folder of a path that engines take for one of our columns, if there is one."""
    names = _NAME.finditer(path + "/")
    return next((name[0] for name in names if not name[1] and is_our_column(name[2])), None)


def is_our_column(name: str) -> bool:
    """Whether an engine may take this name for one of our columns.

    Some engines unescape names; some ignore capitals.
    """
    return unicodedata.normalize("NFKC", unquote(name)).casefold().strip() in _OUR_COLUMNS
