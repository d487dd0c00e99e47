"""Where things lie in an output.

In: the root URI of an output, a model, a shard, a run. Out: URIs. Nothing here reads or writes.
"""

from __future__ import annotations

import errno
import re

from pipeline.store import storage
from pipeline.tables.table_paths import table_path


def labels_folder(output: str, model_id: str) -> str:
    """The folder that holds the tables of a model, and nothing else."""
    return storage.join(output, "labels", f"model={model_id}")


def labels_uri(output: str, model_id: str, shard: str) -> str:
    """The one file of a shard: the shard's own path, mirrored (`table_paths`).

    Raises:
        OSError: the path of the shard has a part `..`, `.` or an empty one.
    """
    if not {"", ".", ".."}.isdisjoint(shard.split("/")):
        raise OSError(errno.EINVAL, f"a table for {shard!r} would lead out of the output, "
                                    "or not be the only one of its name")
    return storage.join(labels_folder(output, model_id), table_path(shard))


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
