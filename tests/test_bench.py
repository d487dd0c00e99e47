"""How the benchmark measures, and that its command runs a part to its JSON line."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.bench import gpu, measure, plan, sql
from pipeline.bench.photos import PER_SHARD, photographs, write_shards
from pipeline.config import UserError
from tests.conftest import job
from tests.test_shards import make_tar


def test_ratio_is_taken_round_by_round() -> None:
    assert measure.ratio([2.0, 20.0, 30.0], [1.0, 10.0, 10.0]) == 2


def test_slope_sets_start_up_apart() -> None:
    assert measure.slope({10: [3.0, 100.0, 3.0], 50: [7.0, 7.0, 8.0]}) == (10.0, 2.0)


def test_rivals_take_turns_and_the_first_round_does_not_count() -> None:
    turns: list[str] = []

    def work(name: str) -> int:
        turns.append(name)
        return 1
    rates = measure.race({"a": lambda: work("a"), "b": lambda: work("b")}, 2)
    assert turns == ["a", "b"] * 3 and len(rates["a"]) == 2 and min(rates["b"]) > 0


def test_shards_of_photographs(tmp_path: Path) -> None:
    photos = photographs(None)
    folder = write_shards(photos, str(tmp_path / "shards"), 3)
    with tarfile.open(f"{folder}/photos-00002.tar") as tar:  # the first again, by another name
        assert len(tar.getnames()) == PER_SHARD
        first = tar.extractfile("000000.jpg")
        assert first is not None and first.read() == photos[0]
    assert photographs(folder) == [*photos, *photos[:PER_SHARD]]


def test_too_few_photographs(tmp_path: Path, photographs: list[tuple[str, bytes]]) -> None:
    (tmp_path / "a.tar").write_bytes(make_tar(*photographs))
    done = job("bench", "decode", "--photos", tmp_path)
    assert done.returncode == 2 and "--photos" in done.stderr and "needs 90" in done.stderr
    assert "Traceback" not in done.stderr and UserError.__name__ not in done.stderr


@pytest.mark.slow
def test_the_last_line_is_json_with_the_ratios() -> None:
    done = job("bench", "decode", "--repeats", 1)
    assert done.returncode == 0, done.stderr
    ratios = json.loads(done.stdout.splitlines()[-1])["ratios"]
    assert sorted(ratios) == ["decode_of_decode_only", "decode_vs_pillow", "decode_vs_pillow_12mp"]
    assert all(value > 0 for value in ratios.values())


def test_planning_over_a_store_of_pages() -> None:
    with plan._store(3000) as port:
        run = plan._run(3000, port)  # raises unless the 30 new shards are found
    assert run.seconds > 0 and run.peak_bytes > 2**20


def test_the_sql_part_asks_real_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("NUM_ROWS", 2000), ("MANY_ROWS", 10_000), ("ROWS_A_TABLE", (20, 1000))):
        monkeypatch.setattr(sql, name, value)
    ratios = sql.measure(measure.Setting([], str(tmp_path), 1)).ratios
    assert ratios["sql_labels_20_over_1000"] > 1 and ratios["neighbours_1e6_s"] > 0 and not list(tmp_path.iterdir())


def test_the_gpu_part_measures_what_it_says() -> None:
    assert gpu.matrix_rate("cpu", torch.float32, 64) > 0
    seen: list[int] = []
    assert gpu.fed(lambda image_NHWC: seen.append(len(image_NHWC)), np.zeros((3, 2, 2, 3), np.uint8), 4) == 12 == sum(seen)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_the_gpu_part_is_left_out_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.measure(measure.Setting([], str(tmp_path), 1)).ratios == {}
    assert "no CUDA device" in capsys.readouterr().out
