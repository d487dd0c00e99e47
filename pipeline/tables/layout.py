"""Where things lie in an output.

In: the root URI of an output, a model, a shard, a run. Out: URIs. Nothing here reads or writes.
A table of plain Parquet lies at the mirrored path of its shard (`table_paths`), and a new version replaces it. In a
lake (Delta or Iceberg) each version of a table is a file of its own, whose name is the digest of its content. There the
etag of a version is its kind of lake and that digest, such as `delta:9f86d081884c7d65`, so path and etag lead to the
file.
"""

from __future__ import annotations

import errno
import re
from typing import Literal
from urllib.parse import quote, unquote

from pipeline.store import storage
from pipeline.tables.table_paths import SUFFIX, table_path

Kind = Literal["parquet", "delta", "iceberg"]  # of the tables of an output
LAKES: tuple[Kind, ...] = ("delta", "iceberg")
DATA = "data"  # the folder of a lake table that holds its files; the log is beside it
_DATA_PATH = re.compile(rf"{DATA}/(.+)/([0-9a-f]{{32}})\{SUFFIX}")

_LONG_NAME = re.compile(r"[^/]{200}(?=[^/])")


def tables_folder(output: str, kind: Kind = "parquet") -> str:
    """The folder that holds the folders of the models."""
    return storage.join(output, "labels" if kind == "parquet" else kind)


def labels_folder(output: str, model_id: str, kind: Kind = "parquet") -> str:
    """The folder that holds the tables of a model, and nothing else but the log of a lake."""
    return storage.join(tables_folder(output, kind), f"model={model_id}")


def place_of(shard: str) -> str:
    """The path of the table of a shard, relative to the folder of its model: the shard's own path, mirrored.

    Raises:
        OSError: the path of the shard has a part `..`, `.` or an empty one.
    """
    if not {"", ".", ".."}.isdisjoint(shard.split("/")):
        raise OSError(errno.EINVAL, f"a table for {shard!r} would lead out of the output, "
                                    "or not be the only one of its name")
    return table_path(shard)


def label_uri(output: str, model_id: str, path: str, etag: str) -> str:
    """The file of a version of a table.

    Args:
        path: of the table, relative to the folder of its model (`place_of`).
        etag: the version, as listings have it. Of plain Parquet each version has the same file.
    """
    if not is_in_lake(etag):
        return storage.join(labels_folder(output, model_id), path)
    kind, _, digest = etag.partition(":")
    return storage.join(labels_folder(output, model_id, "delta" if kind == "delta" else "iceberg"),
                        data_path(path, digest))


def is_in_lake(etag: str) -> bool:
    """Whether this is the etag of a file of a lake table."""
    return etag.startswith(("delta:", "iceberg:"))


def data_path(path: str, digest: str) -> str:
    """The path of a file in the folder of a lake table.

    Readers of lakes escape and unescape paths, each in its own way. So all characters that any of them may change are
    written as `~` and two hexadecimal digits. A name that gets too long by that is cut into folders that end with `~`.
    """
    return f"{data_folder(path)}/{digest}{SUFFIX}"


def data_folder(path: str) -> str:
    """The folder of all versions of a table, in the folder of a lake table; or of all tables of a folder."""
    escaped = quote(path.removesuffix(SUFFIX).rstrip("/")).replace("~", "%7E").replace("%", "~")
    return f"{DATA}/" + _LONG_NAME.sub(r"\g<0>~/", escaped)


def split_data_path(path: str) -> tuple[str, str] | None:
    """The path of the table and the digest of a file in the folder of a lake table; None for a file that the job has
    not put there."""
    match = _DATA_PATH.fullmatch(path)
    return (unquote(match[1].replace("~/", "").replace("~", "%")) + SUFFIX, match[2]) if match else None


def classes_uri(output: str, model_id: str) -> str:
    """The file of the class names of a model."""
    return storage.join(output, "classes", f"{model_id}.parquet")


def mark_uri(output: str) -> str:
    """The file that names the input root of the output."""
    return storage.join(output, "input.json")


def report_uri(output: str, run_id: str) -> str:
    """The report of a run."""
    return storage.join(output, "reports", run_id + ".html")


def tables_glob(folder: str) -> str:
    """All tables in a folder, as a string of DuckDB's SQL.

    Characters of the folder that DuckDB takes for a pattern are escaped.
    """
    escaped = re.sub(r"[*?\[]", r"[\g<0>]", folder).replace("'", "''")
    return f"'{escaped}/**/*.parquet'"
