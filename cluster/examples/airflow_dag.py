"""Airflow 3: the night of the data interval, tried again only where that helps. Put nightly.py beside this file."""

import os
from datetime import datetime, timedelta

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from nightly import AGAIN, NOTHING, run_night

FLAGS = os.environ.get("NIGHT_FLAGS", "--input s3://photos/shards --output s3://labels/tables").split()
RETRY = timedelta(seconds=int(os.environ.get("NIGHT_RETRY_S", 600)))


@dag(schedule="0 1 * * *", start_date=datetime(2026, 11, 24), catchup=False, max_active_runs=1)
def label_nightly():
    @task(retries=2, retry_delay=RETRY, execution_timeout=timedelta(hours=22))
    def label(ds=None):
        summary = run_night(f"night-{ds}", FLAGS)
        code = summary["exit_code"]
        if code in NOTHING:
            raise AirflowSkipException(str(summary.get("error")))
        if code in AGAIN:
            raise RuntimeError(f"exit {code}: {summary.get('error') or summary.get('notes')}")  # tried again
        if code:
            raise AirflowFailException(f"exit {code}: {summary.get('error') or summary.get('notes')}")  # a person looks
        return {name: summary[name] for name in ("run_id", "num_committed", "num_images", "cost")}

    label()


night = label_nightly()
