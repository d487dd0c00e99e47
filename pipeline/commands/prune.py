"""`label-images prune`: remove the tables of shards that are gone, and of models of former days."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge
from cyclopts import Parameter

from pipeline.commands.flags import Output
from pipeline.commands.json_summary import SummaryPlace, writing_summary
from pipeline.config import Format, check_uri
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.upkeep.prune import Removal

MAX_NAMED = 20  # tables that are printed


def prune(
    *,
    output: Output,
    input: Annotated[str | None, Parameter(help="Remove the tables of shards that this input no longer has.")] = None,
    shards: str | None = None,
    whole_model: bool = False,
    old_versions: Annotated[float, Ge(0)] | None = None,
    model: str | None = None,
    format: Format | None = None,
    yes: bool = False,
    summary: SummaryPlace = None,
) -> int:
    """Remove tables that should be no more. Without --yes it only says which.

    ```
    label-images prune --output tables/ --input shards/                    # of shards that have left the input
    label-images prune --output tables/ --shards gone.txt                  # of the shards named in a file, one a line
    label-images prune --output tables/ --whole-model --model inception_v4-61350f2a
    label-images prune --output tables/ --old-versions 30                  # of --table delta or iceberg
    ```

    The table shards keeps a row for each removed table, with the status removed. A shard that is removed by name and
    still is in the input is labelled again by the next run. Reports keep the small pictures that they show.

    Exit status: 0 removed, or nothing to remove, 2 wrong usage, 4 a run writes to the output.

    Args:
        shards: File with the names of shards, one a line, as in the column shard.
        whole_model: Remove all tables and the class names of --model.
        old_versions: Remove the files that no version of the last so many days has (of --table delta or iceberg).
        model: Only tables of this model_id (default: of all models).
        format: What the input is made of (default: as the newest run over --output had it).
        yes: Remove the tables.
    """
    from pipeline.store.uris import canonical_uri
    from pipeline.tables.history import read_settings
    from pipeline.upkeep import prune as pruning

    with writing_summary(summary) as write:
        if sum((input is not None, shards is not None, whole_model, old_versions is not None)) != 1:
            raise UserError("give one of --input, --shards, --whole-model and --old-versions: it says what is removed.")
        if whole_model and model is None:
            raise UserError("--whole-model needs --model: name the model whose tables are removed.")
        check_uri("output", output)
        output = canonical_uri(output)
        if old_versions is not None:
            from pipeline.upkeep.old_versions import remove_old_versions

            files = remove_old_versions(output, model, old_versions, dry_run=not yes)
            counts = {model_id: {"num_files": len(paths)} for model_id, paths in files.items()}
            write({"removed": yes, "models": counts, "exit_code": 0})
            for model_id, paths in files.items():
                print(f"{'removed' if yes else 'would remove'} {len(paths):,} files of {model_id} that no version of "
                      f"the last {old_versions:g} days has")
            if not yes:
                print("nothing was removed: --yes removes these files")
            return 0
        gone = pruning.Gone(
            input=input,
            format=format or read_settings(output, model).get("format", "auto"),
            shards=tuple(read_names(shards)) if shards is not None else (),
            whole_model=whole_model,
            model=model,
        )
        removals = pruning.prune(output, gone, dry_run=not yes)
        write(
            {
                "removed": yes,
                "models": {
                    removal.model_id: {"num_tables": len(removal.tables), "num_rows": removal.num_rows}
                    for removal in removals
                },
                "exit_code": 0,
            }
        )
        print_removals(removals, yes)
    return 0


def read_names(place: str) -> list[str]:
    """The lines of a file of names that are not empty.

    Raises:
        UserError: the file cannot be read, or names nothing.
    """
    from pipeline.store import storage
    from pipeline.store.explain import explaining_errors

    check_uri("shards", place)
    with explaining_errors("--shards", place):
        names = [line for line in storage.read_bytes(place).decode().splitlines() if line.strip()]
    if not names:
        raise UserError(f"--shards {place} names no shard.")
    return names


def print_removals(removals: list[Removal], yes: bool) -> None:
    """Print which tables were removed, or would be."""
    for removal in removals:
        num_bytes = sum(removal.tables["size"].to_pylist())
        print(
            f"{'removed' if yes else 'would remove'} {len(removal.tables):,} tables of {removal.model_id} "
            f"({removal.num_rows:,} rows, {num_bytes / 1e6:,.1f} MB): {removal.reason}"
        )
        paths = removal.tables["path"].to_pylist()
        for path in paths[:MAX_NAMED]:
            print(f"  {path}")
        if len(paths) > MAX_NAMED:
            print(f"  {len(paths) - MAX_NAMED:,} more")
    if not removals:
        print("nothing to remove")
    elif not yes:
        print("nothing was removed: --yes removes these tables")
