"""`label-images run`: label the images of an input, and print what was done."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from pipeline.commands.flags import Flat
from pipeline.commands.json_summary import SummaryPlace, writing_summary
from pipeline.config import Config
from pipeline.stop import Stop, Stopped

if TYPE_CHECKING:
    from pipeline.run.summary import Summary

MAX_NAMED = 20  # failed shards that are printed


def run(config: Flat[Config], *, summary: SummaryPlace = None) -> int:
    """Label images: shards in, labels and embeddings out.

    A shard is a tar, a Parquet file or a group of loose images. Only shards that are new, changed or were never
    finished are labelled. A killed run is completed by the next.

    ```
    label-images run --input s3://bucket/shards --output s3://bucket/tables
    label-images run --input shards/ --output tables/ --weights seed:0
    ray job submit --working-dir . -- jobs/label.py --input URI --output URI
    ```

    Exit status: 0 done or nothing to do, 1 something failed, 2 wrong usage or configuration, 3 more images rejected
    than --max-rejected allows (all tables are committed all the same; trying again does not mend it), 4 another run
    writes to the output, 5 nothing is under --partition (nothing is written then).
    """
    stop = Stop()
    with stop.listening(), writing_summary(summary) as write:
        from pipeline.run.night import label

        try:
            done = label(config, stop=stop)
        except Stopped as stopped:
            print(f"{stopped}; the next run does what is left", file=sys.stderr)
            write({"error": str(stopped), "exit_code": stopped.exit_code})
            stop.leave()
        status = 0 if config.dry_run else done.exit_code(config.max_rejected)
        write(done.figures | {"exit_code": status})
        if config.dry_run:
            print_plan(done)
        else:
            print_summary(done, config.output)
            if status == 3:
                num_images, num_rejected = done.count_night()
                print(f"rejected  {num_rejected:,} of the {num_images:,} images of this night: more than "
                      f"--max-rejected {config.max_rejected:g} allows")
        return status


def print_plan(summary: Summary) -> None:
    """Print what a run would do."""
    from pipeline.report.render import format_duration

    print(
        f"would label {summary.num_pending:,} shards ({summary.pending_bytes / 1e6:,.1f} MB) with "
        f"{summary.model_id}; {summary.num_skipped:,} are done already"
    )
    for note in summary.notes:
        print(f"note      {note}")
    reads, writes = summary.num_requests
    print(f"about {reads:,} reads and {writes:,} writes of the store")
    if summary.expected is not None:
        cost = f" and cost {summary.expected.cost:,.2f}" if summary.expected.cost is not None else ""
        print(f"it may take {format_duration(summary.expected.seconds)} for {summary.expected.num_images:,} "
              f"images{cost}, if it goes as the run before")


def print_summary(summary: Summary, output: str) -> None:
    """Print what a run did, and where its tables are."""
    from pipeline.tables.label_tables import find_kind
    from pipeline.tables.layout import labels_folder, report_uri, tables_glob

    if summary.num_pending:
        _print_counts(summary)
    else:
        print(f"nothing to do: all {summary.num_skipped:,} shards are labelled by {summary.model_id}")
    shown = sorted(summary.failed.items())[:MAX_NAMED]
    for shard, reason in shown:
        print(f"failed    {shard}: {reason}")
    if summary.num_failed > len(shown):
        others = summary.num_failed - len(shown)
        print(f"failed    {others:,} more: the table shards/ has them, its column failure says why")
    if summary.unrecorded:
        print(f"failed    the record of this run could not be written: {summary.unrecorded}")
    for note in summary.notes:
        print(f"note      {note}")
    kind = find_kind(output)
    tables = labels_folder(output, summary.model_id, kind)
    print(f"tables    {tables}")
    print(f"report    {report_uri(output, summary.run_id)}")
    if kind == "parquet":
        glob = tables_glob(tables)
        print(f"duckdb    SELECT label, count(*) AS images FROM {glob} GROUP BY ALL ORDER BY images DESC;")
    else:  # a glob has older versions too
        print(f"query     label-images query --output {shlex.quote(output)} --model {summary.model_id} labels")


def _print_counts(summary: Summary) -> None:
    without = f", {summary.num_without_images:,} without any image" if summary.num_without_images else ""
    print(
        f"shards    {summary.num_committed - summary.num_without_images:,} labelled{without}, "
        f"{summary.num_skipped:,} skipped (done before), {summary.num_failed:,} failed"
    )
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in summary.counts.rejected.most_common())
    print(
        f"images    {summary.counts.num_images:,} at {summary.images_per_s:.1f}/s, "
        f"{summary.counts.rejected.total():,} rejected{f' ({reasons})' if reasons else ''}"
    )
    runner = f", {summary.runner} runner" if summary.runner not in ("", "cpu") else ""
    print(f"model     {summary.model_id} on {summary.device} in {summary.precision}{runner}, {summary.hardware}")
    if summary.cost is not None:
        num_images = summary.counts.num_images
        each = f", {1e6 * summary.cost / num_images:,.2f} a million images" if num_images else ""
        print(f"cost      {summary.cost:,.2f}{each}, for {summary.held_cpu_s / 3600:,.2f} CPU hours and "
              f"{summary.held_gpu_s / 3600:,.2f} GPU hours")
    if summary.device == "cuda" and summary.num_slots:
        stayed = 1 - summary.num_moved / summary.num_blocks
        print(
            f"batches   {summary.num_labelled / summary.num_slots:.0%} full; "
            f"{stayed:.0%} of the blocks were labelled on the node that decoded them"
        )
