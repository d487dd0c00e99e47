"""Dagster: the night as a partition of an asset, tried again only where that helps. Put nightly.py beside this file."""

import os

from dagster import (
    AssetExecutionContext,
    DailyPartitionsDefinition,
    Definitions,
    Failure,
    MaterializeResult,
    RetryRequested,
    asset,
    build_schedule_from_partitioned_job,
    define_asset_job,
)
from nightly import AGAIN, NOTHING, run_night

FLAGS = os.environ.get("NIGHT_FLAGS", "--input s3://photos/shards --output s3://labels/tables").split()


@asset(partitions_def=DailyPartitionsDefinition(start_date="2026-11-24"), op_tags={"dagster/max_runtime": 79200})
def labels(context: AssetExecutionContext) -> MaterializeResult:
    summary = run_night(f"night-{context.partition_key}", FLAGS)
    code, why = summary["exit_code"], summary.get("error") or summary.get("notes")
    if code in NOTHING:
        context.log.warning(f"nothing was labelled: {why}")
        return MaterializeResult(metadata={"exit_code": code})
    if code in AGAIN:
        raise RetryRequested(max_retries=2, seconds_to_wait=int(os.environ.get("NIGHT_RETRY_S", 600)))
    if code:
        raise Failure(f"exit {code}: {why}", allow_retries=False)  # a person looks
    return MaterializeResult(metadata={name: summary[name] for name in ("run_id", "num_committed", "num_images")})


night = define_asset_job("night", selection=[labels])
defs = Definitions(assets=[labels], jobs=[night], schedules=[build_schedule_from_partitioned_job(night, hour_of_day=1)])
