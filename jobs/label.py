#!/usr/bin/env python3
"""Label images with Inception-v4: tar shards, Parquet files or loose ones in, top-5 labels and embeddings out.

Only shards that are new, changed or were never finished are labelled; a killed run is completed by the next.

  jobs/label.py --input s3://bucket/shards --output s3://bucket/tables
  jobs/label.py --input shards/ --output tables/ --weights seed:0
  ray job submit --working-dir . -- jobs/label.py --input URI --output URI
"""

import os
import sys

from pipeline.config import parse_config
from pipeline.errors import UserError
from pipeline.report.render import format_duration
from pipeline.run.night import label
from pipeline.run.tally import Summary
from pipeline.stop import Stop, Stopped
from pipeline.tables.output import labels_folder, report_uri, tables_glob

NAMED = 20  # failed shards that are printed


def main() -> int:
    stop = Stop()
    with stop.listening():
        try:
            config = parse_config(sys.argv[1:], os.environ, str(__doc__))
            summary = label(config, stop=stop)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        except Stopped as ended:
            print(f"{ended}; the next run does what is left", file=sys.stderr)
            stop.leave()
        report(summary, config.output, config.dry_run)
        return 0 if config.dry_run else summary.exit_code(config.max_rejected)


def report(summary: Summary, output: str, dry_run: bool) -> None:
    """Print what the run did, for a person."""
    if dry_run:
        print(f"would label {summary.num_pending:,} shards ({summary.pending_bytes / 1e6:,.1f} MB) with "
              f"{summary.model_id}; {summary.num_skipped:,} are done already")
        for note in summary.notes:
            print(f"note      {note}")
        if summary.expected_s is not None:
            print(f"it may take {format_duration(summary.expected_s)}, if it goes as fast as the run before")
        return
    if not summary.num_pending:
        print(f"nothing to do: all {summary.num_skipped:,} shards are labelled by {summary.model_id}")
    else:
        without = f", {summary.num_without_images:,} without any image" if summary.num_without_images else ""
        print(f"shards    {summary.num_committed - summary.num_without_images:,} labelled{without}, {summary.num_skipped:,} skipped "
              f"(done before), {summary.num_failed:,} failed")
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in summary.counts.rejected.most_common())
        print(f"images    {summary.counts.num_images:,} at {summary.images_per_s:.1f}/s, "
              f"{summary.counts.rejected.total():,} rejected{f' ({reasons})' if reasons else ''}")
        how = f", {summary.runner} runner" if summary.device == "cuda" else ""
        print(f"model     {summary.model_id} on {summary.device} in {summary.precision}{how}, {summary.hardware}")
        if summary.device == "cuda" and summary.num_slots:
            print(f"batches   {summary.num_labelled / summary.num_slots:.0%} full; {1 - summary.num_moved / summary.num_blocks:.0%} of the "
                  "blocks were labelled on the node that decoded them")
    named = sorted(summary.failed.items())[:NAMED]
    for shard, reason in named:
        print(f"failed    {shard}: {reason}")
    if summary.num_failed > len(named):
        print(f"failed    {summary.num_failed - len(named):,} more: the table shards/ has them, its column failure says why")
    if summary.unrecorded:
        print(f"failed    the record of this run could not be written: {summary.unrecorded}")
    for note in summary.notes:
        print(f"note      {note}")
    tables = labels_folder(output, summary.model_id)
    print(f"tables    {tables}")
    print(f"report    {report_uri(output, summary.run_id)}")
    print(f"duckdb    SELECT label, count(*) AS images FROM {tables_glob(tables)} GROUP BY ALL ORDER BY images DESC;")


if __name__ == "__main__":
    sys.exit(main())
