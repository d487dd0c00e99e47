"""`--summary`: what a verb did, as JSON for programs; people read what they read without it."""

import json
from pathlib import Path

import pytest

from pipeline.commands.app import main
from pipeline.commands.json_summary import writing_summary
from pipeline.config import Config
from pipeline.errors import JobError, UserError
from pipeline.parse import parse_price
from pipeline.run.summary import Summary
from tests.support.jobs import SEED, job


def test_a_file_or_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (None, str(tmp_path / "deep/summary.json"), "-"):
        with writing_summary(place) as write:
            write({"images": 3, "key": "ü"})
            print("for people")
        out, err = capsys.readouterr()
        people, program = (err, out) if place == "-" else (out, "")
        assert people == "for people\n"
        text = Path(place).read_text() if place not in (None, "-") else program
        assert place is None or json.loads(text) == {"images": 3, "key": "ü"}


def test_an_error_is_written_and_passes(tmp_path: Path) -> None:
    with pytest.raises(JobError), writing_summary(str(tmp_path / "s.json")):
        raise JobError("Ray does not answer.")
    assert json.loads((tmp_path / "s.json").read_text()) == {"error": "Ray does not answer.", "exit_code": 1}
    (tmp_path / "file").touch()
    place = str(tmp_path / "file/s.json")
    with pytest.raises(UserError, match=r"--summary .*file/s\.json"), writing_summary(place) as write:
        write({})
    with pytest.raises(UserError, match="--summary is empty"), writing_summary(""):
        pass


def test_a_refused_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--input", str(tmp_path / "absent"), "--output", str(tmp_path / "out"), "--summary", "-"]) == 2
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["exit_code"] == 2 and told["error"] in err and "does not exist" in told["error"]


@pytest.mark.parametrize(("price", "prices"), [
    (None, {}), ("gpu=0.98,cpu=0.04", {"gpu": 0.98, "cpu": 0.04}), ("cpu=1", {"cpu": 1.0}), ("gpu=0, cpu=2", {
        "gpu": 0.0, "cpu": 2.0})])
def test_a_price(price: str | None, prices: dict[str, float]) -> None:
    assert parse_price(price) == prices
    summary = Summary("r1", "m", 0, 1, 1, 0, False, prices=prices, held_cpu_s=7200, held_gpu_s=1800)
    assert summary.cost == (None if price is None else pytest.approx(
        2 * prices.get("cpu", 0) + 0.5 * prices.get("gpu", 0)))


@pytest.mark.parametrize(
    "price", ["", "0.98", "gpu", "gpu=", "gpu=-1", "gpu=nan", "tpu=1", "gpu=1,gpu=2", "gpu=1;cpu=2"])
def test_what_is_no_price(price: str) -> None:
    with pytest.raises(UserError, match=r"--price is .*such as gpu=0\.98,cpu=0\.04"):
        Config(input="in", output="out", price=price)


@pytest.mark.slow
def test_the_summaries_of_a_run_and_its_proof(shards: Path, tmp_path: Path) -> None:
    options = ("--input", shards, "--output", tmp_path / "out", *SEED, "--limit-shards", 1)
    dry = job("label", *options, "--dry-run", "--summary", "-")
    plan = json.loads(dry.stdout)
    assert (plan["num_pending"], plan["num_skipped"], plan["exit_code"]) == (1, 0, 0) and "would label" in dry.stderr
    done = job("label", *options, "--price", "cpu=36000", "--summary", tmp_path / "summary.json")
    assert done.returncode == 0, done.stdout + done.stderr
    row = json.loads((tmp_path / "summary.json").read_text())
    assert (row["status"], row["num_committed"], row["num_images"], row["exit_code"]) == ("done", 1, 5, 0)
    assert row["config"]["price"] == "cpu=36000" and row["failed"] == {} and row["held_gpu_s"] == 0
    assert 0 < row["held_cpu_s"] < 2 * row["seconds"] and row["cost"] == pytest.approx(10 * row["held_cpu_s"])
    assert f"cost      {row['cost']:,.2f}, {2e5 * row['cost']:,.2f} a million images" in done.stdout
    page, = (tmp_path / "out/reports").iterdir()
    assert f"{row['cost']:,.2f} <small>{2e5 * row['cost']:,.2f} a million images" in page.read_text()
    proof = job("verify", "--input", shards, "--output", tmp_path / "out", "--summary", "-")
    told = json.loads(proof.stdout)
    assert proof.returncode == told["exit_code"] == 1 and told["num_missing"] == 20 and told["problems"]
