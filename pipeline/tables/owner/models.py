"""Which models an output has labels of.

In: an output. Out: a model_id, or a `UserError` that says why there is no single one.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from pipeline.errors import UserError
from pipeline.store import storage
from pipeline.store.explain import explaining_errors
from pipeline.store.listing import list_files, list_folders
from pipeline.store.read_parquet import DAMAGE, read_table
from pipeline.tables.label_tables import find_kind
from pipeline.tables.layout import labels_folder, tables_folder
from pipeline.tables.table_paths import SUFFIX


def only_model(output_uri: str) -> str:
    """The model whose labels an output has.

    Raises:
        UserError: the output has labels of no model or of several models, or cannot be read.
    """
    with explaining_errors("--output", output_uri):
        try:
            models = list_models(output_uri)
        except FileNotFoundError as error:
            failure = None
            with suppress(Exception):  # there is no output at all, or it cannot be read
                failure = _last_failure(output_uri)
            if failure is None:
                raise
            raise UserError(f"--output {output_uri} has no labels: {failure}.") from error
    if len(models) != 1:
        raise UserError(f"--output {output_uri} has labels of {len(models)} models"
                        f"{': name one with --model, of ' + ', '.join(models) if models else ''}.")
    return models[0]


def list_models(output: str) -> list[str]:
    """The model_ids of an output: the models that have a folder.

    Of several, those that have a table there, since a killed run may leave an empty folder.

    Raises:
        FileNotFoundError: the output has no labels.
    """
    kind = find_kind(output)
    folders = list_folders(tables_folder(output, kind))
    models = [name.removeprefix("model=") for name in folders if name.startswith("model=")]
    return models if len(models) == 1 else [
        model for model in models if _has_table(labels_folder(output, model, kind))]


def _has_table(folder: str) -> bool:
    return any(path.endswith(SUFFIX) for path in list_files(folder)["path"].to_pylist())


def _last_failure(output: str) -> str:
    """Why the newest run of an output without labels committed nothing.

    Raises FileNotFoundError if there was no run.
    """
    for path in sorted(list_files(storage.join(output, "shards"))["path"].to_pylist(), reverse=True):
        for row in _read_rows(storage.join(output, "shards", path)):
            if row.get("status") == "failed":
                return f"run {row['run_id']} failed at every shard, such as {row['shard']}: {row['failure']}"
    return "no run committed a shard"


def _read_rows(uri: str) -> list[dict[str, Any]]:
    """The rows of a file of the ledger; none if the file is damaged."""
    try:
        return list(read_table(storage.read_bytes(uri)).to_pylist())
    except DAMAGE:
        return []
