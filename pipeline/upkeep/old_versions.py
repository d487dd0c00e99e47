"""Remove the files of a lake table that only old versions of it have.

In: an output, a number of days. Out: fewer files; versions older than that can no longer be read.
"""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime

from pipeline.errors import UserError
from pipeline.store.explain import explaining_errors
from pipeline.store.lease import hold_lease
from pipeline.tables.label_tables import find_kind
from pipeline.tables.lake import log
from pipeline.tables.owner.models import list_models


def remove_old_versions(output: str, model_id: str | None, days: float, *, dry_run: bool) -> dict[str, list[str]]:
    """Remove the files that no version of the last `days` has.

    Args:
        model_id: only of this model; None: of all models.

    Returns:
        The paths of the files by model_id, relative to the folder of the model.

    Raises:
        Busy: a run writes to the output.
        UserError: the output is no lake, or has no such model.
    """
    kind = find_kind(output)
    if kind == "parquet":
        raise UserError(f"--old-versions: --output {output} is no Delta or Iceberg table, so it has no old versions.")
    with explaining_errors("--output", output):
        models = list_models(output)
    if model_id is not None and model_id not in models:
        raise UserError(f"--model {model_id}: --output {output} has no table of it; it has {', '.join(models)}.")
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-prune"
    lock = nullcontext() if dry_run else hold_lease(output, run_id, "--output", "no --yes")
    with lock, explaining_errors("--output", output):
        return {model: log.open_log(log.LakeTable(output, model, kind)).vacuum(days, dry_run)
                for model in (models if model_id is None else [model_id])}
