"""Nights in a row: each labels only new and changed shards, and keeps with the run what the schedule says."""

import os
import re

import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from tests.stages.test_read import png
from tests.support.config import parse_config
from tests.support.jobs import SEED, digest, job, labels
from tests.support.tars import make_tar


def night(folder, output, name, *more):
    done = job("label", "--input", folder, "--output", output, *SEED, "--run-name", name, "--keep-reports", 1, *more)
    return done, re.search(r"shards    (\d+) labelled, (\d+) skipped .*, (\d+) failed", done.stdout)


@pytest.mark.slow
@pytest.mark.cluster
def test_two_nights(tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    for number in range(30):
        day = folder / f"dt=2026-11-{23 if number < 15 else 24}"
        day.mkdir(parents=True, exist_ok=True)
        (day / f"{number:03}.tar").write_bytes(make_tar((f"{number}.png", png(number))))
    assert "it may take" not in night(folder, output, "first", "--dry-run")[0].stdout
    done, told = night(folder, output, "first", "--partition", "dt=2026-11-23")
    assert done.returncode == 0 and told and told.groups() == ("15", "0", "0"), done.stdout + done.stderr
    done, told = night(folder, output, "first")  # catches up
    assert told and told.groups() == ("15", "15", "0") and "no longer" not in done.stdout
    digest(folder, output)

    for number in range(30, 33):  # 3 new, 1 changed, 1 removed
        (folder / "dt=2026-11-24" / f"{number:03}.tar").write_bytes(make_tar((f"{number}.png", png(number))))
    (folder / "dt=2026-11-23/007.tar").write_bytes(make_tar(("7.png", png(7)), ("new.png", png(200))))
    (folder / "dt=2026-11-24/029.tar").unlink()
    dry = night(folder, output, "second", "--dry-run")[0].stdout
    assert "would label 4 shards" in dry and re.search(r"it may take \d+\.\d s", dry)
    before = labels(output)
    done, told = night(folder, output, "second")
    assert done.returncode == 0 and told and told.groups() == ("4", "28", "0")
    assert "1 tables are of shards that are no longer in the input" in done.stdout
    assert labels(output).items() > before.items() and len(labels(output)) == 34
    runs = pq.read_table(output / "runs").sort_by("started_at").to_pylist()
    assert [run["run_id"].split("-")[1] for run in runs] == ["first", "first", "second"]
    assert [(run["num_committed"], run["num_skipped"], run["status"]) for run in runs] == [
        (15, 0, "done"), (15, 15, "done"), (4, 28, "done")]
    assert [path.name for path in (output / "reports").iterdir()] == [runs[-1]["run_id"] + ".html"]


def test_a_night_without_files_has_a_status_of_its_own_and_writes_nothing(tmp_path):
    for folder in ("in/dt=2026-11-23", "in/dt=2026-11-24", "in/dt=2026-11-25"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "in/dt=2026-11-23/a.tar").write_bytes(make_tar(("a.png", png(1))))
    (tmp_path / "in/dt=2026-11-25/_SUCCESS").touch()
    for day, more in (("26", ()), ("24", ()), ("24", ("--dry-run",)), ("25", ())):
        done, _ = night(tmp_path / "in", tmp_path / "out", "empty", "--partition", f"dt=2026-11-{day}", *more)
        assert done.returncode == 5, done.stderr
        assert f"error: --partition dt=2026-11-{day}: there is nothing " in done.stderr
        assert done.stderr.count("\n") == 1 and f"{tmp_path}/in/dt=2026-11-{day}" in done.stderr
    assert "1 left out" in done.stderr
    done, _ = night(tmp_path / "typo", tmp_path / "out", "empty", "--partition", "dt=2026-11-23")
    assert done.returncode == 2 and f"--input {tmp_path}/typo does not exist" in done.stderr, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(("option", "value"),
                         [("--partition", "../other"), ("--partition", ""), ("--partition", "/abs"),
                                               ("--run-name", "a/b"), ("--run-name", ""), ("--keep-reports", "0")])
def test_mistakes_are_told(option, value):
    with pytest.raises(UserError, match=option):
        parse_config(["--input", "a", "--output", "b", f"{option}={value}"], os.environ)
