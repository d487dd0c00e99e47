"""`label-images relabel`: the tables of a new head, from the embeddings in the tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pipeline.commands.flags import Output
from pipeline.commands.json_summary import SummaryPlace, writing_summary
from pipeline.config import Config
from pipeline.stop import Stop, Stopped

if TYPE_CHECKING:
    from pipeline.run.summary import Summary


def relabel(
    *,
    output: Output,
    weights: Annotated[str, Parameter(help="The new weights. Their layers below the head are those of the tables.")],
    classes: str | None = Config.classes,
    model: str | None = None,
    labelled_by: str | None = None,
    run_name: str | None = None,
    summary: SummaryPlace = None,
) -> int:
    """Write the tables of a new head from the embeddings in the tables.

    No image is read, and no GPU is needed. The rows are those that label-images run would write with these weights.

    ```
    label-images relabel --output tables/ --weights own/weights.safetensors --classes own/classes.csv
    ```

    The new tables lie beside the old ones. Only tables that are missing or old are written, so a killed job is
    completed by the next. After it, label-images run with the same weights labels only images that are new.

    Exit status: 0 done or nothing to do, 1 a table failed, 2 wrong usage, 4 a run writes to the output.

    Args:
        classes: CSV of label_id,wnid,label of the new head (default: ImageNet-1k).
        model: The model_id whose embeddings are read, if there are several.
        labelled_by: The weights of that model (default: as its newest run had them).
        run_name: A name for the run, as of label-images run.
    """
    from pipeline.embeddings.relabel.run import Relabelling
    from pipeline.embeddings.relabel.run import relabel as run_relabel

    stop = Stop()
    with stop.listening(), writing_summary(summary) as write:
        try:
            done = run_relabel(Relabelling(output, weights, classes, model, labelled_by, run_name), stop=stop)
        except Stopped as stopped:
            print(f"{stopped}; the next relabelling does what is left", file=sys.stderr)
            write({"error": str(stopped), "exit_code": stopped.exit_code})
            stop.leave()
        status = 1 if done.num_failed or done.unrecorded else 0
        write(done.figures | {"exit_code": status})
        print_relabelled(done, output)
    return status


def print_relabelled(summary: Summary, output: str) -> None:
    """Print what was relabelled."""
    from pipeline.tables.label_tables import find_kind
    from pipeline.tables.layout import labels_folder, report_uri

    if summary.num_pending:
        print(f"tables    {summary.num_committed:,} relabelled, {summary.num_skipped:,} skipped (done before), "
              f"{summary.num_failed:,} failed")
        print(f"rows      {summary.counts.num_images:,} at {summary.images_per_s:,.0f}/s")
    else:
        print(f"nothing to do: all {summary.num_skipped:,} tables are relabelled by {summary.model_id}")
    for shard, reason in sorted(summary.failed.items()):
        print(f"failed    {shard}: {reason}")
    if summary.unrecorded:
        print(f"failed    the record of this run could not be written: {summary.unrecorded}")
    if summary.meaningless:
        print("note      these weights are untrained: the labels mean nothing")
    print(f"tables    {labels_folder(output, summary.model_id, find_kind(output))}")
    if summary.num_pending:
        print(f"report    {report_uri(output, summary.run_id)}")
