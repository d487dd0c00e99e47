"""An attempt that is broken off leaves nothing behind."""

import subprocess
import sys

import pytest

from tests.support.jobs import ROOT

BROKEN_OFF = """
import threading, time
import ray, ray.data
from pipeline.actors.reports import iterate_reports

def wait(table):
    if table["id"][0].as_py() >= {first}:
        time.sleep(600)
    return table

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
ray.data.DataContext.get_current().enable_progress_bars = False
reports = iterate_reports(ray.data.range(4, override_num_blocks=4).map_batches(wait, batch_format="pyarrow"))
begun = time.monotonic()
while next(reports) is None and time.monotonic() < begun + ({first} and 60 or 5):
    pass
assert time.monotonic() < begun + 60
reports.close()
left = [thread.name for thread in threading.enumerate() if thread.name == "reports" or "Streaming" in thread.name]
assert not left, left
ray.shutdown()
print("in order")
"""


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 2])
def test_a_run_that_breaks_an_attempt_off_ends_in_order(first):
    """Also when nothing was reported yet. A thread that asks Ray after its end would end the process with status 1."""
    done = subprocess.run([sys.executable, "-c", BROKEN_OFF.format(first=first)], cwd=ROOT, capture_output=True,
                          text=True, timeout=120, check=False)
    assert done.returncode == 0 and "in order" in done.stdout, done.stdout + done.stderr
