"""The whole job on real photographs, as a process: tables, resume, refusals, kills, S3, and `ray job submit`."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.tables.labels import ROWS
from tests.support.cluster import HEAD, Cluster
from tests.support.jobs import ROOT, SEED, digest, job, labels, labels_folder, start_label
from tests.support.processes import family, kill, wait_until
from tests.support.tars import make_tar


def test_tables_as_promised(shards, undisturbed):
    files = sorted(str(path.relative_to(undisturbed)) for path in undisturbed.rglob("*.parquet"))
    folder = f"labels/{labels_folder(undisturbed).name}/"
    assert re.fullmatch(r"labels/model=inception_v4-[0-9a-f]{8}/", folder)
    assert [file for file in files if file.startswith("labels/")] == [
        folder + name + ".parquet" for name in ("a.tar", "b.tar", "c.tar.gz", "dt=2026-11-23/d.tar", "e.tar")]
    assert not (undisturbed / "_staging").exists()
    table = pq.read_table(undisturbed / folder / "a.tar.parquet", partitioning=None)
    assert table.schema.remove_metadata().equals(ROWS)
    assert table["index"].to_pylist() == list(range(5)) and table["error"].null_count == 5
    assert all(row["top5"][0]["label_id"] == row["label_id"] and len(row["embedding"]) == 1536
               for row in table.to_pylist())
    assert len(set(labels(undisturbed).values())) >= 3  # untrained weights tell photographs apart
    run, = pq.read_table(undisturbed / "runs", partitioning=None).to_pylist()
    assert (run["status"], run["num_committed"], run["num_images"], run["num_rejected"]) == ("done", 5, 25, 0)
    assert sum(run["confidence"]) == sum(entry["num_images"] for entry in run["labels"]) == 25
    assert run["gpu_s"] == 0 and 0 < run["cpu_s"] < 2 * os.cpu_count() * run["seconds"]
    assert pq.read_table(undisturbed / "shards", partitioning=None)["num_images"].to_pylist() == [5] * 5
    digest(shards, undisturbed)


def test_nothing_to_do_without_ledger_or_with(shards, undisturbed, tmp_path):
    output = shutil.copytree(undisturbed, tmp_path / "out")
    for _ in ("with the ledger", "without it"):
        done = job("label", "--input", shards, "--output", output, *SEED)
        assert done.returncode == 0 and "nothing to do: all 5 shards" in done.stdout
        shutil.rmtree(output / "shards")


def test_another_input_root_is_refused(undisturbed, shards, tmp_path):
    other = shutil.copytree(shards, tmp_path / "other")
    done = job("label", "--input", other, "--output", undisturbed, *SEED)
    assert done.returncode == 2 and f"holds the labels of --input {shards}" in done.stderr
    lost = shutil.copytree(undisturbed, tmp_path / "lost")
    (lost / "input.json").unlink()
    done = job("label", "--input", other, "--output", lost, *SEED)
    assert done.returncode == 2 and "an output belongs to one input" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_rejected_failed_changed_and_new(shards, photographs, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a.tar", "e.tar"):
        shutil.copy(shards / name, folder)
    (folder / "bad.tar").write_bytes(make_tar(*photographs, ("cut.jpg", dict(photographs)["china.jpg"][:5000]),
                                              ("no.png", b"hello")))
    (folder / "cut.tar").write_bytes((folder / "e.tar").read_bytes()[:200_000])
    options = ("--input", folder, "--output", output, *SEED, "--batch-size", 4)
    assert "would label 4 shards" in job("label", *options, "--dry-run").stdout and not output.exists()
    done = job("label", *options)
    assert done.returncode == 1 and "3 labelled, 0 skipped (done before), 1 failed" in done.stdout
    assert "failed    cut.tar: it ends inside" in done.stdout
    assert "2 rejected (" in done.stdout and "truncated 1" in done.stdout and "not_an_image 1" in done.stdout
    assert not list(output.rglob("*cut*")) and not list(output.glob("_staging/**/*.parquet"))
    (folder / "cut.tar").unlink()
    (folder / "a.tar").write_bytes(make_tar(("new", b""), *photographs[:2], ("x.gif", b"GIF89a")))
    done = job("label", *options)
    assert done.returncode == 3 and "1 labelled, 2 skipped (done before), 0 failed" in done.stdout
    assert "rejected  1 of the 3 images of this night: more than --max-rejected 0.01 allows" in done.stdout
    digest(folder, output)
    again = job("label", *options)  # does not turn green by being run again
    assert again.returncode == 3 and "nothing to do" in again.stdout and "rejected  1 of the 3" in again.stdout
    assert job("label", *options, "--max-rejected", 0.5).returncode == 0


@pytest.mark.slow
def test_a_limit_first_and_the_others_later(shards, undisturbed, tmp_path):
    options = ("--input", shards, "--output", tmp_path / "out", *SEED, "--batch-size", 4)
    first = job("label", *options, "--limit-shards", 2)
    assert first.returncode == 0 and "2 labelled, 0 skipped" in first.stdout, first.stdout + first.stderr
    assert "3 more shards are in the input: --limit-shards left them out" in first.stdout
    tables = {*(tmp_path / "out").rglob("labels/**/*.parquet")}
    assert len(tables) == 2
    again = job("label", *options, "--limit-shards", 2)
    assert "nothing to do: all 2 shards are labelled" in again.stdout and "no longer in the input" not in again.stdout
    rest = job("label", *options)
    assert rest.returncode == 0 and "3 labelled, 2 skipped" in rest.stdout and "left them out" not in rest.stdout
    assert tables < {*(tmp_path / "out").rglob("labels/**/*.parquet")}
    assert digest(shards, tmp_path / "out") == digest(shards, undisturbed)


@pytest.mark.chaos
def test_killed_at_any_moment_the_next_run_completes(shards, undisturbed, tmp_path):
    output, log = tmp_path / "out", tmp_path / "log"
    options = ("--input", shards, "--output", output, *SEED, "--batch-size", 4)
    run = start_label(*options, log=log)

    def is_in_the_middle() -> bool:
        return bool(list(output.glob("_staging/**/*.parquet")) and list(output.glob("labels/**/*.parquet")))

    wait_until(lambda: run.poll() is not None or is_in_the_middle(), "no shard is committed", look_s=0.01)
    assert run.poll() is None, log.read_text()
    kill(family(run.pid))
    run.wait()
    assert len(list(output.glob("labels/**/*.parquet"))) < 5
    done = job("label", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (output / "_staging").exists()
    assert digest(shards, output) == digest(shards, undisturbed) and labels(output) == labels(undisturbed)
    killed, after = pq.read_table(output / "runs", partitioning=None).sort_by("run_id").to_pylist()
    assert (killed["status"], after["status"]) == ("killed", "done") and killed["seconds"] is None
    assert killed["num_committed"] + after["num_committed"] == 5 and killed["num_images"] + after["num_images"] == 25
    # The next run adds the rows of the killed run.
    rows = pq.read_table(output / "shards", partitioning=None).to_pylist()
    assert sorted(row["shard"] for row in rows if row["status"] == "committed") == [
        "a.tar", "b.tar", "c.tar.gz", "dt=2026-11-23/d.tar", "e.tar"]
    assert {row["run_id"] for row in rows} == {killed["run_id"], after["run_id"]}


@pytest.mark.slow
@pytest.mark.s3
def test_the_same_over_s3(shards, undisturbed, s3):
    environ, fs = s3
    fs.put(str(shards) + "/", "photos/in/", recursive=True)
    options = ("--input", "s3://photos/in", "--output", "s3://photos/out", *SEED, "--batch-size", 4)
    done = job("label", *options, **environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert digest("s3://photos/in", "s3://photos/out", **environ) == digest(shards, undisturbed)
    assert "nothing to do" in job("label", *options, **environ).stdout
    assert not [path for path in fs.find("photos/out") if "_staging" in path]
    refused = job("label", *options, **environ | {"AWS_SECRET_ACCESS_KEY": "wrong"})
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "--output s3://photos/out" in refused.stderr


@pytest.mark.slow
@pytest.mark.cluster
def test_ray_job_submit_with_token(shards, undisturbed, tmp_path):
    output = tmp_path / "out"
    with Cluster("--num-cpus=2", f"--dashboard-host={HEAD}", RAY_TMPDIR=str(tmp_path),
                 PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}") as cluster:
        address = f"http://{HEAD}:{cluster.dashboard}"

        def ray_job(verb: str, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(["ray", "job", verb, "--address", address, *options],
                                  env=os.environ | cluster.environ | environ,
                                  cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)

        submit = ("--working-dir", ".", "--submission-id", "night-2026-11-24", "--", "jobs/label.py", "--input",
                  str(shards),
                  "--output", str(output), *SEED, "--batch-size", "4")
        wait_until(lambda: ray_job("list").returncode == 0, "the head takes no jobs", look_s=1)
        stranger = ray_job("submit", *submit, RAY_AUTH_TOKEN="f" * 64)
        assert stranger.returncode and not output.exists()
        submissions: list[subprocess.CompletedProcess[str]] = []

        def is_taken() -> bool:
            """The agent of a node starts after its head."""
            submissions.append(ray_job("submit", *submit))
            return "No available agent" not in submissions[-1].stderr

        wait_until(is_taken, "the head has no agent", look_s=1)
        assert submissions[-1].returncode == 0, submissions[-1].stdout[-3000:] + submissions[-1].stderr[-3000:]
        assert "5 labelled" in submissions[-1].stdout
        again = ray_job("submit", *submit)
        assert again.returncode and "night-2026-11-24 already exists" in again.stdout + again.stderr
        with urllib.request.urlopen(f"http://{HEAD}:{cluster.metrics}/metrics", timeout=30) as answer:
            metrics = totals(answer.read().decode())
    assert digest(shards, output) == digest(shards, undisturbed)
    run, = pq.read_table(output / "runs").to_pylist()
    rows = pq.read_table(output / "shards")
    assert metrics.pop("label_shards_left") == 0
    assert metrics.pop("label_last_commit_timestamp_seconds") > run["started_at"].timestamp()
    assert metrics == pytest.approx({
        "label_images_total": 25, "label_shards_total": 5, "label_batch_slots_total": 25,  # a processor pads nothing
        "label_read_bytes_total": sum(rows["image_bytes"].to_pylist()),
        "label_decode_seconds_total": sum(rows["decode_s"].to_pylist()),
        "label_network_seconds_total": sum(rows["label_s"].to_pylist())})


def totals(exposition: str) -> dict[str, float]:
    """Our series of a metrics endpoint, each summed over its labels."""
    sums: dict[str, float] = {}
    for name, value in re.findall(r"^ray_(label_\w+)\{.*\} (\S+)$", exposition, re.MULTILINE):
        sums[name] = sums.get(name, 0) + float(value)
    return sums


def test_mistakes_are_one_sentence(tmp_path, shards):
    (tmp_path / "empty").mkdir()
    for options, says in (
            (("--input", tmp_path / "absent", "--output", tmp_path / "o"), "absent does not exist."),
            (("--input", tmp_path / "empty", "--output", tmp_path / "o"), "holds no tar shards"),
            (("--input", shards, "--output", "sftp://host/x"), "--output sftp://host/x"),
            (("--input", shards, "--output", tmp_path / "o", "--weights", "w.bin"), "--weights w.bin"),
            (("--input", shards, "--output", tmp_path / "o", "--classes", "absent.csv"), "--classes"),
            (("--input", shards), "--output is missing")):
        done = job("label", *options)
        assert done.returncode == 2 and says in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1 and not (tmp_path / "o").exists()
    assert job("label", "--nonsense").returncode == 2
    assert "LABEL_MAX_REJECTED" in job("label", "--help").stdout


def test_settings_are_kept_with_the_run(undisturbed):
    run, = pq.read_table(undisturbed / "runs", partitioning=None, filters=[("num_committed", ">", 0)]).to_pylist()
    assert json.loads(run["config"])["batch_size"] == 4 and json.loads(run["versions"])["ray"]
