"""An output: where the tables of a model lie in it, and who owns it (one input root, one list of class names a model).

In: the config, the output as it stands. Out: URIs, a `UserError` in a sentence, or the marks `input.json` and
`classes/<model_id>.parquet`, written once.
"""

from __future__ import annotations

import errno
import io
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config import Config, UserError
from pipeline.listing import list_files
from pipeline.parquet import read_table


def labels_folder(output: str, model_id: str) -> str:
    """Where a model's tables are, and nothing else."""
    return storage.join(output, "labels", f"model={model_id}")


def report_uri(output: str, run_id: str) -> str:
    """Where the report of a run is."""
    return storage.join(output, "reports", run_id + ".html")


def remove_old_reports(output: str, keep: int) -> None:
    """Leave the newest `keep` reports; their names begin with the time."""
    folder = storage.join(output, "reports")
    for path in sorted(list_files(folder)["path"].to_pylist())[:-keep]:
        storage.remove(storage.join(folder, path))


def labels_uri(output: str, model_id: str, shard: str) -> str:
    """The one file of a shard: its own path, mirrored, and `.parquet` behind it. Raises OSError for a path with `..`."""
    if not {"", ".", ".."}.isdisjoint(shard.split("/")):
        raise OSError(errno.EINVAL, f"a table for {shard!r} would lead out of the output, or not be the only one of its name")
    return storage.join(labels_folder(output, model_id), shard + ".parquet")


def check_root(config: Config) -> None:
    """Raise UserError if the output holds the labels of another input root, which this run's would replace."""
    owner = _owner(config.output)
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
    stored = _read(storage.join(config.output, "classes", f"{model_id}.parquet"))
    if stored is not None and not read_table(stored).equals(classes):
        raise UserError(f"--classes: {config.output} was labelled by {model_id} with other class names; "
                        "use the same file or another --output.")


def claim(config: Config, model_id: str, classes: pa.Table) -> None:
    """Mark the output as this input's, and store the model's class names, which `check_names` has found to be the same or none.

    Raises:
        UserError: the output cannot be written.
    """
    uri = storage.join(config.output, "classes", f"{model_id}.parquet")
    try:
        if _read(uri) is None:
            buffer = io.BytesIO()
            pq.write_table(classes, buffer)
            storage.put_whole(uri, buffer.getvalue())
        mark = json.dumps({"input": config.input}) + "\n"
        storage.put_whole(storage.join(config.output, "input.json"), mark.encode())
    except Exception as error:  # each store has its own exceptions
        raise storage.explain("output", config.output, error) from error


def only_model(output_uri: str) -> str:
    """The model whose labels an output has.

    Raises:
        UserError: it has none, or those of several; or it cannot be read.
    """
    try:
        paths = list_files(storage.join(output_uri, "labels"))["path"].to_pylist()
        models = sorted({path.split("/")[0].removeprefix("model=") for path in paths if "/" in path})
    except FileNotFoundError as error:
        try:
            failure = _last_failure(output_uri)
        except Exception:  # noqa: BLE001  # there is no output at all, or none that can be read
            raise storage.explain("output", output_uri, error) from error
        raise UserError(f"--output {output_uri} has no labels: {failure}.") from error
    except Exception as error:  # each store has its own exceptions
        raise storage.explain("output", output_uri, error) from error
    if len(models) != 1:
        raise UserError(f"--output {output_uri} has labels of {len(models)} models"
                        f"{': name one with --model, of ' + ', '.join(models) if models else ''}.")
    return models[0]


def _last_failure(output: str) -> str:
    """Why the newest run of an output without labels committed nothing. Raises FileNotFoundError if there was no run."""
    for path in sorted(list_files(storage.join(output, "shards"))["path"].to_pylist(), reverse=True):
        for row in read_table(storage.read_bytes(storage.join(output, "shards", path))).to_pylist():
            if row["status"] == "failed":
                return f"run {row['run_id']} failed at every shard, such as {row['shard']}: {row['failure']}"
    return "no run committed a shard"


def _owner(output: str) -> str | None:
    """The input root of an output: as its mark says, or if that is lost, as the footer of a table does."""
    mark = _read(storage.join(output, "input.json"))
    if mark is not None:
        return str(json.loads(mark)["input"])
    try:
        paths = list_files(storage.join(output, "labels"))["path"].to_pylist()
    except FileNotFoundError:
        return None
    table = next((path for path in paths if path.endswith(".parquet") and "/" in path), None)
    if table is None:
        return None
    footer = pq.read_metadata(io.BytesIO(storage.read_bytes(storage.join(output, "labels", table)))).metadata or {}
    if b"source_uri" not in footer:
        return None
    shard = table.split("/", 1)[1].removesuffix(".parquet")  # behind model=<model_id>/
    return str(footer[b"source_uri"].decode().removesuffix("/" + shard))


def _read(uri: str) -> bytes | None:
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError:
        return None
