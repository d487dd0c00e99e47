"""Who an output belongs to: one input root, one list of kept columns, and one list of class names for each model.

In: the config, the output as it stands. Out: a `UserError` in a sentence, or the marks `input.json` and
`classes/<model_id>.parquet`. Not here: which columns are kept (`keep.py`).
"""

from __future__ import annotations

import io
import itertools
import json
import re
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.store import storage
from pipeline.store.explain import explaining_errors
from pipeline.store.listing import list_files
from pipeline.store.read_parquet import DAMAGE, read_table
from pipeline.tables.label_tables import find_kind, has_tables
from pipeline.tables.layout import classes_uri, mark_uri, split_data_path, tables_folder
from pipeline.tables.table_paths import SUFFIX, find_misread_folder, shard_of

TABLES_READ = 20  # at most, for a footer that names the input
_LOOSE_IMAGES = re.compile(r"images-(first|[0-9a-f]{12})\.parquet")  # the table of a group of loose images


class Mark(NamedTuple):
    """What an output belongs to. `input`: its root. `keep`: the kept columns with their types, as `--keep` has them."""

    input: str
    keep: str | None


def check_root(config: Config, damaged: list[str], root: str | None = None) -> Mark | None:
    """Check that the output belongs to this input, and that DuckDB reads its path as it is meant.

    Args:
        damaged: gets the marks of the output that cannot be understood; `claim_output` writes them again.
        root: of the input: the folder of a pattern. None: the input itself.

    Returns:
        What the output belongs to; None if it is new.

    Raises:
        UserError: the output holds the labels of another input root, which this run would replace; or a folder above
            the tables looks like one of their columns to DuckDB, which reads the whole path.
    """
    if folder := find_misread_folder(config.output):
        raise UserError(f"--output {config.output}: DuckDB takes its folder {folder}=… for the column {folder} "
                        "of the tables; name another --output, or rename that folder.")
    kind = find_kind(config.output)
    if kind != config.table and has_tables(config.output):
        raise UserError(f"--output {config.output} has tables of --table {kind}, and now there is --table "
                        f"{config.table}: all tables of an output are of one kind; give the same, or another --output.")
    mark = read_mark(config.output, damaged)
    if mark and mark.input != (root or config.input):
        raise UserError(f"--output {config.output} holds the labels of --input {mark.input}, and an output belongs to "
                        f"one input: give {config.input} an --output of its own.")
    return mark


def check_kind(config: Config, outputs: pa.Table, shards: pa.Table) -> None:
    """Check that the output has tables of the kind of shards that are found now, or none.

    For example, a tar that has come among loose images would now be all that the job reads.

    Args:
        outputs: the finished files of the output, with a column `path`.
        shards: the shards of the input.

    Raises:
        UserError: all tables are of another kind of shards.
    """
    def kind(path: str) -> str:
        return "tar shards" if not path.lower().endswith(".parquet") else "Parquet files"

    now = None
    if len(shards):
        now = "loose images" if "members" in shards.column_names else kind(shards["path"][0].as_py())
    before = {"loose images" if _LOOSE_IMAGES.fullmatch(path) else kind(path.removesuffix(".parquet"))
              for path in outputs["path"].to_pylist()}
    if now and before and now not in before:
        formats = {"loose images": "images (or manifest)", "tar shards": "tar", "Parquet files": "parquet"}
        first = min(before)
        raise UserError(f"--output {config.output} has the tables of {first}, and of --input {config.input} {now} "
                        f"would be labelled now: give --format {formats[first]}, or another --output.")


def check_names(config: Config, model_id: str, classes: pa.Table) -> None:
    """Check that the model's labels in this output have the same class names.

    Raises:
        UserError: they have other names.
    """
    stored = _read_classes(config.output, model_id, classes.schema)
    if stored is not None and not stored.equals(classes):
        raise UserError(f"--classes: {config.output} was labelled by {model_id} with other class names; "
                        "use the same file or another --output.")


def claim_output(config: Config, model_id: str, classes: pa.Table, root: str | None = None) -> None:
    """Mark the output as this input's, and store the class names of the model. `check_names` must have passed.

    Args:
        root: as in `check_root`.

    Raises:
        UserError: the output cannot be written.
    """
    with explaining_errors("--output", config.output):
        if _read_classes(config.output, model_id, classes.schema) is None:
            buffer = io.BytesIO()
            pq.write_table(classes, buffer)
            storage.put_whole(classes_uri(config.output, model_id), buffer.getvalue())
        mark = {"input": root or config.input} | ({"keep": config.keep} if config.keep else {})
        storage.put_whole(mark_uri(config.output), (json.dumps(mark) + "\n").encode())


def _read_classes(output: str, model_id: str, schema: pa.Schema) -> pa.Table | None:
    """The class names of a model that an output has; None if the output has none, or a damaged file of them."""
    data = _read(classes_uri(output, model_id))
    try:
        stored = None if data is None else read_table(data)
    except DAMAGE:
        return None
    return stored if stored is not None and stored.schema.equals(schema) else None


def read_mark(output: str, damaged: list[str]) -> Mark | None:
    """The mark of an output; if it is lost, the same from the footer of one of the first tables; None if there is
    neither.

    Args:
        damaged: gets the path of a mark that cannot be understood.
    """
    data = _read(mark_uri(output))
    if data is not None:
        try:
            mark = json.loads(data)
            if isinstance(mark["input"], str) and isinstance(mark.get("keep"), str | None):
                return Mark(mark["input"], mark.get("keep"))
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        damaged.append("input.json")
    kind = find_kind(output)
    folder = tables_folder(output, kind)
    try:
        paths = list_files(folder)["path"].to_pylist()
    except FileNotFoundError:
        return None
    tables = (path for path in paths if path.endswith(SUFFIX) and path.startswith("model=") and "/" in path)
    for path in itertools.islice(tables, TABLES_READ):
        try:
            data = storage.read_bytes(storage.join(folder, path))
            footer = pq.read_metadata(io.BytesIO(data)).metadata or {}
            mirrored = path.partition("/")[2]  # the path below model=<model_id>/
            if kind != "parquet":
                mirrored = (split_data_path(mirrored) or (mirrored, ""))[0]
            shard = shard_of(mirrored) or mirrored.removesuffix(SUFFIX)
            keep = footer.get(b"keep")
            return Mark(footer[b"source_uri"].decode().removesuffix("/" + shard), keep.decode() if keep else None)
        except (FileNotFoundError, *DAMAGE):
            continue
        except OSError as error:
            if error.errno is not None:
                raise  # an OSError without a number is a damaged footer, as pyarrow raises it
    return None


def _read(uri: str) -> bytes | None:
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError:
        return None
