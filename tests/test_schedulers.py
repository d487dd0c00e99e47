"""The examples of `cluster/examples` against a Ray on this machine: what each scheduler makes of each exit code.

Airflow and Dagster have environments of their own (`make schedulers` makes them).
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.store.lease import hold_lease
from tests.stages.test_read import png
from tests.support.cluster import HEAD, Cluster
from tests.support.jobs import ROOT, WEIGHTS, make_weights
from tests.support.tars import make_tar

EXAMPLES = ROOT / "cluster/examples"
CODES = (0, 1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def head():
    make_weights()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with Cluster("--num-cpus=2", "--num-gpus=0", f"--dashboard-host={HEAD}", cwd=ROOT, PATH=path) as cluster:
        yield cluster


@pytest.fixture
def night(head, tmp_path):
    """A function: an exit code -> the variables and flags of a night that ends with it."""
    ended = threading.Event()
    threads = []

    def make(code: int) -> tuple[dict[str, str], list[str]]:
        folder, output = tmp_path / "in", tmp_path / "out"
        folder.mkdir()
        good = make_tar(("1.png", png(1)), ("2.png", png(2)))
        (folder / "a.tar").write_bytes(good)
        if code == 1:
            (folder / "b.tar").write_bytes(good[:700])
        if code == 3:
            (folder / "b.tar").write_bytes(make_tar(("1.png", b"no image")))
        flags = ["--input", str(folder), "--output", str(output), "--weights", str(WEIGHTS), "--precision", "fp32"]
        flags += {2: ["--batch-size", "0"], 5: ["--partition", "dt=2026-11-24"]}.get(code, [])
        if code == 4:
            holding = threading.Event()
            threads.append(threading.Thread(target=_hold, args=(str(output), holding, ended)))
            threads[-1].start()
            holding.wait()
        environ = {"RAY_API_SERVER_ADDRESS": f"http://{HEAD}:{head.dashboard}",
                   "RAY_AUTH_TOKEN": head.environ["RAY_AUTH_TOKEN"], "NO_PROXY": head.environ["NO_PROXY"],
                   "NIGHT_ENTRYPOINT": f"{sys.executable} {ROOT}/jobs/label.py", "NIGHT_FLAGS": " ".join(flags),
                   "NIGHT_RETRY_S": "1"}
        return os.environ | environ, flags

    yield make
    ended.set()
    for thread in threads:
        thread.join()


def _hold(output: str, holding: threading.Event, ended: threading.Event) -> None:
    with hold_lease(output, "another", "--output", "--no-lease"):
        holding.set()
        ended.wait()


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("code", CODES)
def test_the_shared_part_ends_with_the_code_of_the_run(night, code):
    environ, flags = night(code)
    done = subprocess.run([sys.executable, EXAMPLES / "nightly.py", "night-2026-11-24", *flags], env=environ,
                          capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    if code == 2:  # found before there is a run
        assert "error: --batch-size is 0; it must be at least 1." in done.stdout
        return
    summary = json.loads("{" + done.stdout.partition("\n{\n")[2].rpartition("\n}\n")[0] + "}")
    assert summary["exit_code"] == code and ("night-2026-11-24" in summary["run_id"] if code in (0, 1, 3) else
                                             summary["error"])


def test_the_shared_part_asks_again_while_the_head_is_away(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import nightly
    waits = []
    monkeypatch.setattr(nightly.time, "sleep", waits.append)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(OSError):
        nightly.run_night("night", [])
    assert waits == [5] * 24


@pytest.mark.slow
@pytest.mark.parametrize(("code", "tries"), [(0, 1), (1, 3), (2, 1), (3, 1), (4, 1), (5, 1), (143, 3)])
def test_cron_tries_again_only_where_that_helps(tmp_path, code, tries):
    fake = tmp_path / "label-images"
    fake.write_text(f"#!/bin/sh\necho \"$@\" >> {tmp_path}/calls\nexit {code}\n")
    fake.chmod(0o755)
    environ = os.environ | {"LABEL_IMAGES": str(fake), "RETRY_S": "0", "SUMMARIES": str(tmp_path)}
    done = subprocess.run([EXAMPLES / "cron.sh", "--input", "a b", "--output", "c"], env=environ, capture_output=True,
                          text=True, check=False)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == tries and all("--input a b --output c" in call for call in calls)
    assert done.returncode == (0 if code in (0, 4, 5) else code)
    assert bool(done.stderr) == (code not in (0, 4, 5))  # what cron mails


def run_in(name: str, program: str, environ: dict[str, str], folder: Path) -> str:
    """What a program prints in the environment of a scheduler."""
    python = ROOT / f".venv/{name}/bin/python"
    if not python.exists():
        pytest.skip(f"{name} is not installed: make schedulers")
    done = subprocess.run([python, "-c", program], env=environ | {"PYTHONPATH": str(EXAMPLES)}, cwd=folder,
                          capture_output=True, text=True, timeout=580, check=False)
    assert "RESULT" in done.stdout, (done.stdout + done.stderr)[-4000:]
    return next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))


AIRFLOW = """
import logging, datetime
from airflow_dag import night
run = night.test(logical_date=datetime.datetime(2026, 11, 24, tzinfo=datetime.timezone.utc))
states = [(one.task_id, str(one.state), one.try_number) for one in run.get_task_instances()]
print("RESULT", str(run.state), states)
"""
# The state of the task, and its tries.
AIRFLOW_STATES = {0: ("success", 1), 1: ("failed", 3), 2: ("failed", 1), 3: ("failed", 1), 4: ("skipped", 1),
                  5: ("skipped", 1)}


@pytest.mark.schedulers
@pytest.mark.slow
@pytest.mark.parametrize("code", CODES)
def test_airflow(night, tmp_path, code):
    environ, _ = night(code)
    environ |= {"AIRFLOW_HOME": str(tmp_path / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLES)}
    airflow = ROOT / ".venv/airflow/bin/airflow"
    if airflow.exists():
        subprocess.run([airflow, "db", "migrate"], env=environ, check=True, capture_output=True, timeout=200)
    result = run_in("airflow", AIRFLOW, environ, tmp_path)
    print(f"exit {code}: {result}")
    state, tries = AIRFLOW_STATES[code]
    assert f"('label', '{state}', {tries})" in result


DAGSTER = """
import dagster_defs
result = dagster_defs.defs.resolve_job_def("night").execute_in_process(partition_key="2026-11-24", raise_on_error=False)
tries = sum(event.event_type_value == "STEP_RESTARTED" for event in result.all_events)
print("RESULT", "success" if result.success else "failure", f"{tries} restarts")
"""
DAGSTER_RESULTS = {0: "success 0 restarts", 1: "failure 2 restarts", 2: "failure 0 restarts", 3: "failure 0 restarts",
                   4: "success 0 restarts", 5: "success 0 restarts"}


@pytest.mark.schedulers
@pytest.mark.slow
@pytest.mark.parametrize("code", CODES)
def test_dagster(night, tmp_path, code):
    environ, _ = night(code)
    (tmp_path / "home").mkdir()
    result = run_in("dagster", DAGSTER, environ | {"DAGSTER_HOME": str(tmp_path / "home")}, tmp_path)
    print(f"exit {code}: {result}")
    assert result == f"RESULT {DAGSTER_RESULTS[code]}"


@pytest.mark.schedulers
def test_argo_and_sky_by_their_schemas():
    python = ROOT / ".venv/sky/bin/python"
    if not python.exists():
        pytest.skip("skypilot and hera are not installed: make schedulers")
    program = """
import sys, yaml, jsonschema
from hera.workflows.models import CronWorkflow
from sky.utils import schemas
argo, sky = (yaml.safe_load(open(path)) for path in sys.argv[1:])
workflow = CronWorkflow.model_validate(argo)
jsonschema.validate(sky, schemas.get_task_schema())
print("RESULT", workflow.metadata.name, sky["name"])
"""
    files = [EXAMPLES / "argo.yaml", EXAMPLES / "sky.yaml"]

    def check(paths):
        return subprocess.run([python, "-c", program, *paths], capture_output=True, text=True, check=False)

    done = check(files)
    assert "RESULT label-nightly label-nightly" in done.stdout, done.stderr[-3000:]


