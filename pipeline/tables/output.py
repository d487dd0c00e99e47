"""An output: where the tables of a model lie in it, and who owns it (one input root, one list of class names a model).

In: the config, the output as it stands. Out: URIs, a `UserError` in a sentence, or the marks `input.json` and
`classes/<model_id>.parquet`, written once.
"""

from __future__ import annotations

import errno
import io
import itertools
import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.store import storage
from pipeline.store.explain import explaining_errors
from pipeline.store.listing import list_files, list_folders
from pipeline.store.read_parquet import DAMAGE, read_table
from pipeline.tables.table_paths import SUFFIX, find_misread_folder, shard_of, table_path

LOOKED_AT = 20  # tables, for one that names its input
REMOVED_AT_ONCE = 16


def labels_folder(output: str, model_id: str) -> str:
    """Where a model's tables are, and nothing else."""
    return storage.join(output, "labels", f"model={model_id}")


def tables_glob(folder: str) -> str:
    """All tables in a folder, as a string of DuckDB's SQL: what would be a pattern in the folder's own path stands for itself."""
    escaped = re.sub(r"[*?\[]", r"[\g<0>]", folder).replace("'", "''")
    return f"'{escaped}/**/*.parquet'"


def report_uri(output: str, run_id: str) -> str:
    """Where the report of a run is."""
    return storage.join(output, "reports", run_id + ".html")


def remove_old_reports(output: str, keep: int) -> None:
    """Leave the newest `keep` reports; their names begin with the time."""
    folder = storage.join(output, "reports")
    for path in sorted(list_files(folder)["path"].to_pylist())[:-keep]:
        storage.remove(storage.join(folder, path))


def labels_uri(output: str, model_id: str, shard: str) -> str:
    """The one file of a shard: its own path, mirrored (`table_paths`). Raises OSError for a path with `..`."""
    if not {"", ".", ".."}.isdisjoint(shard.split("/")):
        raise OSError(errno.EINVAL, f"a table for {shard!r} would lead out of the output, or not be the only one of its name")
    return storage.join(labels_folder(output, model_id), table_path(shard))


def remove_misplaced(output: str, model_id: str, paths: list[str]) -> int:
    """Remove tables that lie where none does any more, each only if its shard has one at its own place; how many were removed.

    What the store refuses to remove stays.
    """
    folder = labels_folder(output, model_id)

    def remove(path: str) -> bool:
        try:
            storage.remove(storage.join(folder, path))
        except Exception:  # noqa: BLE001  # each store has its own exceptions
            return False
        return True

    try:
        present = set(list_files(folder)["path"].to_pylist())
    except Exception:  # noqa: BLE001
        return 0
    with ThreadPoolExecutor(REMOVED_AT_ONCE) as pool:
        return sum(pool.map(remove, [path for path in paths if table_path(path.removesuffix(SUFFIX)) in present]))


def check_root(config: Config, damaged: list[str]) -> None:
    """Raise UserError if the output holds the labels of another input root, which this run's would replace.

    Or if DuckDB, which looks at all of a path, would read a folder above the tables as a column of theirs.

    Args:
        damaged: gets the marks of the output that cannot be understood; `claim` writes them anew.
    """
    if folder := find_misread_folder(config.output):
        raise UserError(f"--output {config.output}: DuckDB takes its folder {folder}=… for the column {folder} of the tables; "
                        "name another --output, or rename that folder.")
    owner = _owner(config.output, damaged)
    if owner is not None and owner != config.input:
        raise UserError(f"--output {config.output} holds the labels of --input {owner}, and an output belongs to one "
                        f"input: give {config.input} an --output of its own.")


def check_kind(config: Config, outputs: pa.Table, found: pa.Table) -> None:
    """Raise UserError if the output has tables, and all of shards of another kind than those that are found.

    Such as of loose images, where a tar has come among them and would now be all that is read.
    """
    def kind(path: str) -> str:
        return "tar shards" if not path.lower().endswith(".parquet") else "Parquet files"

    now = "loose images" if "members" in found.column_names else kind(found["path"][0].as_py()) if len(found) else None
    before = {"loose images" if _GROUP.fullmatch(path) else kind(path.removesuffix(".parquet")) for path in outputs["path"].to_pylist()}
    if now and before and now not in before:
        formats = {"loose images": "images (or manifest)", "tar shards": "tar", "Parquet files": "parquet"}
        first = min(before)
        raise UserError(f"--output {config.output} has the tables of {first}, and of --input {config.input} {now} would be labelled now: "
                        f"give --format {formats[first]}, or another --output.")


_GROUP = re.compile(r"images-(first|[0-9a-f]{12})\.parquet")


def check_names(config: Config, model_id: str, classes: pa.Table) -> None:
    """Raise UserError if the model's labels in this output have other class names."""
    stored = _stored_classes(storage.join(config.output, "classes", f"{model_id}.parquet"), classes.schema)
    if stored is not None and not stored.equals(classes):
        raise UserError(f"--classes: {config.output} was labelled by {model_id} with other class names; "
                        "use the same file or another --output.")


def claim_output(config: Config, model_id: str, classes: pa.Table) -> None:
    """Mark the output as this input's, and store the model's class names, which `check_names` has found to be the same or none.

    Raises:
        UserError: the output cannot be written.
    """
    uri = storage.join(config.output, "classes", f"{model_id}.parquet")
    with explaining_errors("--output", config.output):
        if _stored_classes(uri, classes.schema) is None:
            buffer = io.BytesIO()
            pq.write_table(classes, buffer)
            storage.put_whole(uri, buffer.getvalue())
        mark = json.dumps({"input": config.input}) + "\n"
        storage.put_whole(storage.join(config.output, "input.json"), mark.encode())


def _stored_classes(uri: str, schema: pa.Schema) -> pa.Table | None:
    """The classes of a model as an output has them; None if it has none, or a damaged file, to be written anew."""
    data = _read(uri)
    try:
        stored = None if data is None else read_table(data)
    except DAMAGE:
        return None
    return stored if stored is not None and stored.schema.equals(schema) else None


def only_model(output_uri: str) -> str:
    """The model whose labels an output has.

    Raises:
        UserError: it has none, or those of several; or it cannot be read.
    """
    with explaining_errors("--output", output_uri):
        try:
            models = _models(output_uri)
        except FileNotFoundError as error:
            try:
                failure = _last_failure(output_uri)
            except Exception:  # noqa: BLE001  # there is no output at all, or none that can be read
                raise error from None
            raise UserError(f"--output {output_uri} has no labels: {failure}.") from error
    if len(models) != 1:
        raise UserError(f"--output {output_uri} has labels of {len(models)} models"
                        f"{': name one with --model, of ' + ', '.join(models) if models else ''}.")
    return models[0]


def _models(output: str) -> list[str]:
    """The models that have a folder; of several those that have a table in it, for a killed run may leave an empty one."""
    labels = storage.join(output, "labels")
    models = [name.removeprefix("model=") for name in list_folders(labels) if name.startswith("model=")]
    if len(models) == 1:
        return models
    return [model for model in models if any(path.endswith(SUFFIX) for path in list_files(labels_folder(output, model))["path"].to_pylist())]


def _last_failure(output: str) -> str:
    """Why the newest run of an output without labels committed nothing. Raises FileNotFoundError if there was no run."""
    for path in sorted(list_files(storage.join(output, "shards"))["path"].to_pylist(), reverse=True):
        for row in _rows(storage.join(output, "shards", path)):
            if row.get("status") == "failed":
                return f"run {row['run_id']} failed at every shard, such as {row['shard']}: {row['failure']}"
    return "no run committed a shard"


def _owner(output: str, damaged: list[str]) -> str | None:
    """The input root of an output: as its mark says, or if that is lost, as the footer of one of its first tables does."""
    mark = _read(storage.join(output, "input.json"))
    if mark is not None:
        try:
            owner = json.loads(mark)["input"]
            if isinstance(owner, str):
                return owner
        except (ValueError, KeyError, TypeError):
            pass
        damaged.append("input.json")
    try:
        paths = list_files(storage.join(output, "labels"))["path"].to_pylist()
    except FileNotFoundError:
        return None
    tables = (path for path in paths if path.endswith(SUFFIX) and path.startswith("model=") and "/" in path)
    for path in itertools.islice(tables, LOOKED_AT):
        try:
            footer = pq.read_metadata(io.BytesIO(storage.read_bytes(storage.join(output, "labels", path)))).metadata or {}
            mirrored = path.partition("/")[2]  # behind model=<model_id>/
            shard = shard_of(mirrored) or mirrored.removesuffix(SUFFIX)
            return str(footer[b"source_uri"].decode().removesuffix("/" + shard))
        except (FileNotFoundError, *DAMAGE):
            continue
        except OSError as error:
            if error.errno is not None:
                raise  # else so pyarrow calls a damaged footer
    return None


def _rows(uri: str) -> list[dict[str, Any]]:
    try:
        return list(read_table(storage.read_bytes(uri)).to_pylist())
    except DAMAGE:
        return []


def _read(uri: str) -> bytes | None:
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError:
        return None
