"""A year of nights on an S3 server: what planning a night costs on the first day, it costs on the last.

The nights are whole runs: plan, read, decode, commit, ledger, report, merge. Ray is left out: the stages are called one
after another in this process, and a stand-in answers for the network. The clock is the test's.
"""

import io
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.ask.verify import verify
from pipeline.config import Config
from pipeline.inputs.read import Inputs
from pipeline.run import night
from pipeline.run.tally import Tally
from pipeline.stages.commit import Committer
from pipeline.stages.label import LabelStage
from pipeline.stages.read import Reader
from pipeline.stages.reports import read_reports
from pipeline.stages.sink import Sink
from pipeline.tables import label_tables, ledger
from pipeline.upkeep import prune as pruning
from pipeline.upkeep.prune import Gone, prune
from tests.support.faults import FaultProxy
from tests.support.s3 import forget_s3
from tests.support.tars import make_tar

NIGHTS, SHARDS, PER_SHARD = 365, 200, 2
CHANGED = GONE = NEW = SHARDS // 100  # each night
NEW_MODEL = 180  # the night from which another model labels
MISSED = range(250, 257)  # nights without a run, though the input goes on changing
PRUNE_EVERY = 30
FIRST = datetime(2026, 1, 1, 1, tzinfo=UTC)


@dataclass
class Night:
    """What a night cost. `plan_s`, `plan_requests`: of a dry run before it; `requests`: of the run."""

    number: int
    plan_s: float
    plan_requests: int
    requests: int
    num_labelled: int
    ledger_files: int
    ledger_bytes: int


class StandIn:
    """Stands for the network: answers by the mean of the pixels."""

    precision, runner, runner_note = "fp32", "cpu", ""

    def __call__(self, image_NHWC: np.ndarray) -> np.ndarray:
        first = image_NHWC.reshape(len(image_NHWC), -1).mean(1).astype(int) % 1000
        answer_NK = np.zeros((len(image_NHWC), 2 * 5 + 1536), np.float32)
        answer_NK[:, :5] = (first[:, None] + np.arange(5)) % 1000
        answer_NK[:, 5:10] = [0.5, 0.2, 0.1, 0.1, 0.1]
        answer_NK[:, 10:] = first[:, None]
        return answer_NK

    def slots_for(self, num_images: int) -> int:
        return num_images


def execute_here(context, run_weights, classes, pending, begin) -> None:
    """As `execute`, in this process."""
    config, summary = context.config, context.summary
    begin()
    summary.device = "cpu"
    reader = Reader(8, 8, 1, config.max_image_pixels, Inputs.of(config))
    stage = LabelStage(StandIn, len(classes))
    sink = Sink(config.output, summary.run_id, summary.model_id, config.output_embeddings, (), config.table)
    committer = Committer(sink, classes["label"].to_pylist())
    tally = Tally(config.output, summary, pa.concat_arrays(pending["path"].chunks), lambda _: None)
    shards = pa.table({"number": pa.array(range(len(pending)), pa.int32()), "shard": pending["path"],
                       "uri": [f"{config.input}/{path}" for path in pending["path"].to_pylist()]})
    for pixels in reader(shards):
        for answers in stage(pixels):
            for reports in committer(answers):
                for report in read_reports(reports):
                    tally.add(report)
    tally.settle(last=True)
    tally.close()


def picture(chance: random.Random) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), tuple(chance.randrange(256) for _ in range(3))).save(file, "JPEG")
    return file.getvalue()


def count_ledger(fs, bucket: str) -> tuple[int, int]:
    fs.invalidate_cache()
    sizes = [file["size"] for table in ("shards", "runs") if fs.exists(f"{bucket}/out/{table}")
             for file in fs.find(f"{bucket}/out/{table}", detail=True).values()]
    return len(sizes), sum(sizes)


@pytest.mark.year
def test_a_year_of_nights(s3, monkeypatch):
    environ, fs = s3
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    proxy = FaultProxy(int(environ["AWS_ENDPOINT_URL"].rpartition(":")[2]))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setattr(night, "execute", execute_here)
    chance, bucket = random.Random(1602_07261), "photos/whole-year"
    uri = f"s3://{bucket}"
    present: list[str] = []
    nights: list[Night] = []
    num_made = 0

    def put(shard: str) -> None:
        members = [(f"{number}.jpg", picture(chance)) for number in range(PER_SHARD)]
        fs.pipe(f"{bucket}/in/{shard}", make_tar(*members))

    def add(number: int) -> None:
        nonlocal num_made
        for _ in range(number):
            present.append(f"dt={num_made % 12:02}/{num_made:05}.tar")
            put(present[-1])
            num_made += 1

    @contextmanager
    def at(number: int) -> Iterator[None]:
        """The clock of the runs shows this night."""
        clock = type("Clock", (datetime,), {"now": classmethod(lambda *_: FIRST + timedelta(days=number))})
        with monkeypatch.context() as patched:
            for module in (night, pruning):
                patched.setattr(module, "datetime", clock)
            yield

    def run(number: int, **options) -> tuple[object, int, float]:
        """A run, its requests and its seconds, as of a new process."""
        forget_s3()
        proxy.requests.clear()
        begun = time.monotonic()
        with at(number):
            config = Config(input=f"{uri}/in", output=f"{uri}/out", run_name="night",
                            weights="seed:0" if number < NEW_MODEL else "seed:1", **options)
            summary = night.label(config, io.StringIO())
        return summary, len(proxy.requests), time.monotonic() - begun

    begun = time.monotonic()
    try:
        add(SHARDS)
        for number in range(NIGHTS):
            if number:
                for shard in chance.sample(present, GONE):
                    present.remove(shard)
                    fs.rm_file(f"{bucket}/in/{shard}")
                for shard in chance.sample(present, CHANGED):
                    put(shard)
                add(NEW)
            if number in MISSED:
                continue
            _, plan_requests, plan_s = run(number, dry_run=True)
            summary, requests, _ = run(number)
            assert (summary.unrecorded, summary.num_failed) == ("", 0), (number, summary.failed, summary.unrecorded)
            nights.append(Night(number, plan_s, plan_requests, requests, summary.num_committed,
                                *count_ledger(fs, bucket)))
            if number % PRUNE_EVERY == PRUNE_EVERY - 1:
                forget_s3()
                with at(number):
                    prune(f"{uri}/out", Gone(input=f"{uri}/in"), dry_run=False)
        show(nights, time.monotonic() - begun)
        forget_s3()
        model = night.weights.identify("seed:1").model_id
        proof = verify(f"{uri}/in", f"{uri}/out", model, Inputs.of(Config(input="in", output="out")))
        rows = ledger.read_finished(f"{uri}/out", model, [])
        tables = label_tables.list_labels(f"{uri}/out", model)
    finally:
        proxy.close()
        forget_s3()
    assert (proof.num_missing, proof.num_double) == (0, 0) and proof.num_samples == PER_SHARD * len(present)
    assert set(table.removesuffix(".parquet") for table in tables["path"].to_pylist()) >= set(present)
    assert len(rows) >= len(tables)
    usual = [one for one in nights if one.number not in (0, NEW_MODEL)]
    early, late = ([one for one in usual if one.number in days] for days in (range(60, 120), range(300, 365)))
    # The ledger has a merged file a month in each of its two tables; planning reads those of one.
    assert 0 <= median(one.plan_requests for one in late) - median(one.plan_requests for one in early) <= 9
    assert median(one.ledger_files for one in late) - median(one.ledger_files for one in early) <= 22
    labelled = {one.number: one.num_labelled for one in nights}
    assert labelled[0] == SHARDS and labelled[NEW_MODEL] == SHARDS
    assert labelled[MISSED.stop] > 5 * median(labelled.values())


def show(nights: list[Night], seconds: float) -> None:
    """Print a line for each month; and if YEAR_PLOT names a file, draw the year into it."""
    print(f"\n{len(nights)} nights over {SHARDS} shards in {seconds:,.0f} s; by month, medians of the nights")
    print("month  planning s  requests  of the run  ledger files  KiB")
    for month in range(12):
        if not (of_month := [one for one in nights if one.number // 31 == month]):
            continue
        values = [median(getattr(one, name) for one in of_month)
                  for name in ("plan_s", "plan_requests", "requests", "ledger_files", "ledger_bytes")]
        print(f"{month + 1:5} {values[0]:11.2f} {values[1]:9.0f} {values[2]:11.0f} {values[3]:13.0f} "
              f"{values[4] / 1024:5.0f}")
    if path := os.environ.get("YEAR_PLOT"):
        draw(nights, Path(path))


def draw(nights: list[Night], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    days = [one.number for one in nights]
    for axis, name, label in zip(axes, ("plan_s", "plan_requests", "ledger_files"),
                                 ("planning, s", "planning, requests", "ledger, files"), strict=True):
        axis.plot(days, [getattr(one, name) for one in nights], linewidth=0.8)
        axis.set(ylabel=label, ylim=(0, None))
        axis.spines[["top", "right"]].set_visible(False)
        axis.axvline(NEW_MODEL, color="grey", linestyle=":", linewidth=0.8)
    axes[0].set_title("A year of nights: 200 shards, 1 % changed, gone and new each night; dotted: another model",
                      fontsize=10)
    axes[-1].set(xlabel="night")
    figure.savefig(path, format="svg", metadata={"Date": None})
