"""An error of our own code in any stage ends in the ledger and in the report, with the place where it was raised."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.actors import graph
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.run.night import label
from pipeline.stages.commit import Committer
from pipeline.stages.label import LabelStage
from pipeline.stages.read import Reader
from tests.stages.test_read import png
from tests.support.jobs import make_weights
from tests.support.tars import make_tar


def plant() -> tuple[type, type, type]:
    """Stages that divide by zero at the shard that is named after them.

    Made in a function, so that Ray sends their code along.
    """
    class PlantedReader(Reader):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            decode_sample = self.pool.decode_sample

            def planted_decode(sample, slot_HWC):
                if sample.key.startswith("reader"):
                    planted = 0
                    return 1 / planted
                return decode_sample(sample, slot_HWC)
            self.pool.decode_sample = planted_decode

    class PlantedLabeller(LabelStage):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            pick = self.picker.pick

            def planted_pick(samples: pa.Table, *rest):
                if samples["key"][0].as_py().startswith("labeller"):
                    planted = 0
                    return 1 / planted
                return pick(samples, *rest)
            self.picker.pick = planted_pick

    class PlantedSink(Committer):
        def commit(self, piece):
            if piece.segment["shard"] == "sink.tar":
                planted = 0
                return 1 / planted
            return super().commit(piece)

    return PlantedReader, PlantedLabeller, PlantedSink


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_an_error_of_our_own_is_told_where_users_look(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("fine", "reader", "labeller", "sink"):
        (tmp_path / "in" / f"{name}.tar").write_bytes(make_tar(*((f"{name}-{n}.png", png(n)) for n in range(3))))
    reader, labeller, sink = plant()
    for name, stage in (("Reader", reader), ("LabelStage", labeller), ("Committer", sink)):
        monkeypatch.setattr(graph, name, stage)
    stream = io.StringIO()
    summary = label(Config(input=str(tmp_path / "in"), output=str(tmp_path / "out"), weights=str(make_weights()),
                           precision="fp32"), stream)
    assert (summary.num_committed, summary.num_failed, summary.exit_code(1)) == (1, 3, 1), stream.getvalue()
    rows = [row for path in (tmp_path / "out/shards").iterdir() for row in pq.read_table(path).to_pylist()]
    failures = {row["shard"]: row["failure"] for row in rows if row["status"] == "failed"}
    page = next(Path(tmp_path / "out/reports").iterdir()).read_text(encoding="utf-8")
    for name, place in (("reader", "planted_decode"), ("labeller", "planted_pick"), ("sink", "commit")):
        assert "ZeroDivisionError" in failures[f"{name}.tar"]
        assert f"in {place}: return 1 / planted" in failures[f"{name}.tar"]
        assert f"in {place}: return 1 / planted" in page
    assert [row["status"] for row in rows if row["shard"] == "fine.tar"] == ["committed"]


def refuse(*_):
    raise UserError("--runner fast: the fast runner was not trusted: it differs; use --runner auto or plain.")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_labeller_that_cannot_start_ends_the_run_in_a_sentence(tmp_path, monkeypatch, capfd):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.tar").write_bytes(make_tar(("a.png", png(1))))
    monkeypatch.setattr(graph, "load_labeller", refuse)
    says = r"^--runner fast: the fast runner was not trusted: it differs; use --runner auto or plain.$"
    with pytest.raises(UserError, match=says):
        label(Config(input=str(tmp_path / "in"), output=str(tmp_path / "out"), weights=str(make_weights()),
                     precision="fp32"), io.StringIO())
    run, = [row for path in (tmp_path / "out/runs").iterdir() for row in pq.read_table(path).to_pylist()]
    assert run["status"] == "failed" and ".cc:" not in capfd.readouterr().err
