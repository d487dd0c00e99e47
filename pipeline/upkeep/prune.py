"""Remove tables that should be no more: of shards that have left the input, of shards by name, of a whole model.

In: an input or names, an output. Out: `Removal`s, and fewer tables; a dry run only finds them. Of a lake table all
versions of the files go, so older snapshots can no longer be read where they had them. The table `shards` keeps
a row for each removed table, with the status `removed`. It is written before the tables go, so a killed run leaves
tables that the next one finds again.
Not here: the tables of a running job. The lease keeps them away, and their shards are in the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Config, Format
from pipeline.errors import UserError
from pipeline.inputs.find import check_found, find_shards
from pipeline.store import storage
from pipeline.store.explain import explaining_errors
from pipeline.store.lease import hold_lease
from pipeline.tables import label_tables, ledger
from pipeline.tables.label_files import read_footers
from pipeline.tables.label_tables import find_kind
from pipeline.tables.lake import log
from pipeline.tables.lake.log import LISTED
from pipeline.tables.layout import classes_uri, label_uri, labels_folder
from pipeline.tables.ledger_rows import ShardRow
from pipeline.tables.owner import claim
from pipeline.tables.owner.models import list_models
from pipeline.tables.plan import FINISHED, make_plan
from pipeline.tables.table_paths import shard_of, table_paths
from pipeline.upkeep.clean import REMOVALS_AT_ONCE

ROWS_A_FILE = 10_000  # of the ledger


@dataclass(frozen=True)
class Removal:
    """The tables of a model that are removed.

    `tables`: of `FILES`, relative to `labels/model=<model_id>/`. `num_rows`: in them. `reason`: why. `whole_model`:
    nothing of the model stays.
    """

    model_id: str
    tables: pa.Table
    num_rows: int
    reason: str
    whole_model: bool = False


@dataclass(frozen=True)
class Gone:
    """What is to be removed from an output: one of the three.

    `input`: the tables of shards that this input no longer has; `format` is what it is made of. `shards`: the tables of
    these shards, whose names are paths relative to the input. `whole_model`: all of the model. `model`: only tables of
    this model_id; None: of all models.
    """

    input: str | None = None
    format: Format = "auto"
    shards: tuple[str, ...] = ()
    whole_model: bool = False
    model: str | None = None


def prune(output: str, gone: Gone, *, dry_run: bool) -> list[Removal]:
    """Find the tables that are to be removed, and remove them unless it is a dry run.

    Returns:
        A `Removal` for each model that has such tables.

    Raises:
        Busy: a run writes to the output.
        UserError: the input cannot be listed or has no shard, the output is of another input, or has no such model.
    """
    if dry_run:
        return list(_find(output, gone))
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-prune"
    with hold_lease(output, run_id, "--output", "no --yes") as lease, explaining_errors("--output", output):
        removals = list(_find(output, gone))
        for removal in removals:
            lease.check()
            _record(output, run_id, removal)
            _remove(output, removal, run_id)
    return removals


def _find(output: str, gone: Gone) -> Iterator[Removal]:
    with explaining_errors("--output", output):
        models = list_models(output)
    if gone.model is not None and gone.model not in models:
        raise UserError(f"--model {gone.model}: --output {output} has no table of it; it has {', '.join(models)}.")
    present = _list_input(output, gone) if gone.input is not None else None
    for model_id in models if gone.model is None else [gone.model]:
        with explaining_errors("--output", output):
            tables = label_tables.list_labels(output, model_id)
            if present is not None:
                tables, reason = make_plan(present, tables, FINISHED.empty_table()).orphans, "left the input"
            elif gone.whole_model:
                reason = "all of the model"
            else:
                named = table_paths(pa.chunked_array([pa.array(gone.shards, pa.string())]))
                tables, reason = tables.filter(pc.is_in(tables["path"], named)), "by name"
            if len(tables):
                num_rows = pc.sum(read_footers(output, model_id, tables)["num_images"]).as_py() or 0
                yield Removal(model_id, tables, num_rows, reason, gone.whole_model)


def _list_input(output: str, gone: Gone) -> pa.Table:
    """The shards of the input, whose tables stay."""
    config = Config(input=str(gone.input), output=output, format=gone.format)
    with explaining_errors("--input", config.input):
        found = find_shards(config.input, config.format, output=config.output)
        check_found(config, found)  # an input without shards would remove everything
    with explaining_errors("--output", config.output):
        claim.check_root(config, [], found.root)
    return found.shards


def _record(output: str, run_id: str, removal: Removal) -> None:
    """Write a row of the table `shards` for each table that is removed."""
    now = datetime.now(UTC)
    rows = [ShardRow(
        run_id=run_id, shard=shard_of(table["path"]) or table["path"], source_uri=None, source_size=None,
        source_etag=None, model_id=removal.model_id, status="removed", failure=removal.reason, num_images=None,
        num_rejected=None, rejected=None, num_left_out=None, left_out=None, image_bytes=None, decode_s=None,
        label_s=None, file=table["path"], file_size=table["size"], file_etag=table["etag"], labelled_at=now)
        for table in removal.tables.to_pylist()]
    for number, start in enumerate(range(0, len(rows), ROWS_A_FILE)):
        name = f"{run_id}-{removal.model_id}-{number:05}"
        ledger.write_shards(output, name, rows[start:start + ROWS_A_FILE])


def _remove(output: str, removal: Removal, run_id: str) -> None:
    kind, model_id = find_kind(output), removal.model_id
    paths = removal.tables["path"]
    if kind == "parquet":
        uris = [label_uri(output, model_id, path, "") for path in paths.to_pylist()]
    else:
        table = log.LakeTable(output, model_id, kind)
        if removal.whole_model:
            log.drop(table)
        else:
            log.commit(table, log.Change(LISTED.empty_table(), paths.to_pylist()), None, run_id)
        versions = label_tables.list_versions(output, model_id)
        versions = versions.filter(pc.is_in(versions["path"], paths.combine_chunks()))
        uris = [label_uri(output, model_id, path, etag)
                for path, etag in zip(versions["path"].to_pylist(), versions["etag"].to_pylist(), strict=True)]
    with ThreadPoolExecutor(REMOVALS_AT_ONCE) as pool:
        list(pool.map(storage.remove, uris))
    if removal.whole_model:
        storage.remove(labels_folder(output, model_id, kind))
        storage.remove(classes_uri(output, model_id))
