"""How the benchmark measures, and that its command runs a part to its JSON line."""

from __future__ import annotations

import contextlib
import json
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.bench import driver, measure, sql
from pipeline.bench.gpu import device, rivals
from pipeline.bench.photos import PER_SHARD, photographs, write_shards
from pipeline.bench.plan import many_shards as plan
from pipeline.errors import UserError
from pipeline.runners import on_cuda, probe
from pipeline.stages.reports import Report
from tests.support.cuda_stand_in import install
from tests.support.jobs import job
from tests.support.processes import wait_until
from tests.support.tars import make_tar
from tests.support.tiny_network import TinyNetwork, tiny_state


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
    with plan.serve_store(3000) as port:
        run = plan.plan_once(3000, port)  # raises unless the 30 new shards are found
    assert run.seconds > 0 and run.peak_bytes > 2**20


def test_the_sql_part_asks_real_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("NUM_ROWS", 2000), ("NEIGHBOUR_ROWS", 10_000), ("TABLE_ROWS", (20, 1000))):
        monkeypatch.setattr(sql, name, value)
    ratios = sql.measure(measure.Setting([], str(tmp_path), 1)).ratios
    assert ratios["sql_labels_20_over_1000"] > 1 and ratios["neighbours_1e6_s"] > 0 and not list(tmp_path.iterdir())


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is none, tiny networks for ours and timm's, and no compiler."""
    install(monkeypatch)
    monkeypatch.setattr(on_cuda, "ACTIVATION_BYTES", 2**10)
    monkeypatch.setattr(on_cuda, "LARGEST_MAP", 2**11)
    for module in (probe, rivals):
        monkeypatch.setattr(module, "UintNetwork", TinyNetwork)
    monkeypatch.setattr("pipeline.model.weights.load", lambda _: tiny_state())
    monkeypatch.setattr(rivals, "load_timm", lambda state: lambda image_NCHW: image_NCHW.mean((2, 3)))
    monkeypatch.setattr(rivals, "PASSES", 2)
    for name, value in (("BATCH", 4), ("MATRIX_SIZE", 64)):
        monkeypatch.setattr(device, name, value)
    monkeypatch.setattr(torch, "compile", lambda model: model)
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    kernels = [SimpleNamespace(key=f"kernel_{at}", self_device_time_total=at, count=3) for at in range(12)]
    monkeypatch.setattr(torch.profiler, "profile", lambda activities: contextlib.nullcontext(
        SimpleNamespace(key_averages=lambda: kernels)))
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)  # an import of it fails


def fake_job(monkeypatch: pytest.MonkeyPatch, watched: Path) -> None:
    """`watched`: the file that nvidia-smi makes in each run of the job, once it has told something."""
    def run_job(shards: str, tables: str, weights: str, number: int) -> SimpleNamespace:
        wait_until(watched.exists, "nvidia-smi does not begin", 10)
        watched.unlink()
        return SimpleNamespace(seconds=1.0 + number / 10)
    monkeypatch.setattr("pipeline.bench.job.run_job", run_job)
    monkeypatch.setattr("pipeline.bench.feed.one_core_rate", lambda photos: 100.0)
    monkeypatch.setattr(device, "SIZES", (1, 2))


def test_the_gpu_part_on_a_stand_in(stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bin").mkdir()
    fake_job(monkeypatch, tmp_path / "bin/begun")
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.write_text("#!/bin/sh\n[ $1 = --id=GPU-5 ] || exit 1\nprintf '0\\n80\\n[N/A]\\n60\\n'\n"
                   f"touch {tmp_path}/bin/begun\nexec sleep 60\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{smi.parent}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5,GPU-6")
    part = device.measure(measure.Setting(photographs(None), str(tmp_path), 1))
    assert sorted(part.ratios) == sorted([
        "gpu_images_per_s", "gpu_startup_s", "gpu_flops_share", "gpu_fast_vs_plain", "gpu_vs_timm_eager",
        "gpu_vs_timm_compiled", "gpu_fed_of_model", "gpu_job_of_limit", "gpu_busy"])
    assert all(value > 0 for value in part.ratios.values()) and part.ratios["gpu_busy"] == pytest.approx(0.7)
    printed = capsys.readouterr().out
    assert "TensorRT fp16: left out, torch_tensorrt is not installed" in printed
    assert "kernel_11" in printed and "kernel_1 " not in printed and "random" not in printed
    figures = part.figures["gpu"]
    assert isinstance(figures, dict) and figures["runner"] == "fast"
    assert set(figures["rates"]) == {
        rivals.FAST, rivals.UNFUSED, rivals.PLAIN, rivals.EAGER, rivals.COMPILED,
        rivals.OURS_COMPILED, rivals.FED_2, rivals.FED_3, rivals.FED_PLAIN}


def test_the_gpu_part_where_much_fails(stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    def no_compiler(model: object) -> None:
        raise RuntimeError("no Triton here\nand more")
    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.setattr(on_cuda.FastCuda, "_capture", no_compiler)  # then it is the plain runner
    monkeypatch.setattr(torch.profiler, "profile", lambda activities: no_compiler(activities))
    for name in ("ray", "pipeline.bench.model"):
        monkeypatch.setitem(sys.modules, name, None)
    part = device.measure(measure.Setting([b"no photograph"], str(tmp_path), 1))
    assert {"gpu_images_per_s", "gpu_vs_timm_eager", "gpu_fed_of_model"} < set(part.ratios)
    assert not {"gpu_fast_vs_plain", "gpu_vs_timm_compiled", "gpu_job_of_limit", "gpu_busy"} & set(part.ratios)
    printed = capsys.readouterr().out
    for line in ("plain runner, batches of 4: the fast runner was not trusted: it raised TypeError",
                 "autocast: failed, RuntimeError: no Triton here\n", "profile: failed", "the images are random pixels",
                 "whole job: left out, ray is not installed"):
        assert line in printed


def test_the_rivals_that_others_made(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    monkeypatch.setattr(rivals, "PASSES", 1)
    asked: dict[str, Any] = {}

    def compile(model: object, **options: Any) -> object:
        asked.update(options)
        return lambda image_NCHW: image_NCHW
    monkeypatch.setitem(sys.modules, "torch_tensorrt", SimpleNamespace(compile=compile))
    labeller = SimpleNamespace(batch_size=2, precision="fp32", run=None, num_top=5)
    makers = rivals.list_builders(tiny_state(), labeller, np.zeros((4, 299, 299, 3), np.uint8))  # type: ignore[arg-type]
    assert [makers[name]()() for name in (rivals.EAGER, rivals.TENSORRT)] == [2, 2]
    images = asked["inputs"][0]
    assert images.dtype == torch.half and images.shape == (2, 3, 299, 299) and images.min() == images.max() == -1
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_a_rival_that_fails_later_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    turns: list[int] = []

    def breaks() -> int:
        turns.append(1)
        if len(turns) == 3:
            raise RuntimeError("out of memory")
        return 1
    rates = rivals.race_ready({"breaks": lambda: breaks, "works": lambda: lambda: 1}, 4)
    assert list(rates) == ["works"] and len(rates["works"]) == 4 and len(turns) == 3
    assert "breaks: failed, RuntimeError: out of memory" in capsys.readouterr().out


def test_busy_without_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with device.watch_busy(str(tmp_path / "busy")) as shares:
        pass
    assert shares == []


def test_the_gpu_part_measures_what_it_says() -> None:
    assert device.matrix_rate("cpu", torch.float32, 64) > 0
    seen: list[int] = []
    images = np.zeros((3, 2, 2, 3), np.uint8)
    assert rivals.feed(lambda image_NHWC: seen.append(len(image_NHWC)), images, 4, 2) == 12 == sum(seen)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_part_on_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "measure_job", lambda setting, state: None)
    part = device.measure(measure.Setting(photographs(None), str(tmp_path), 1))
    assert part.ratios["gpu_images_per_s"] > 0 and part.ratios["gpu_fast_vs_plain"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_the_gpu_part_is_left_out_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert device.measure(measure.Setting([], str(tmp_path), 1)).ratios == {}
    assert "no CUDA device" in capsys.readouterr().out


def test_the_stages_of_the_driver_part_report_what_the_tally_takes() -> None:
    shards = pa.table({"number": pa.array(range(25), pa.int32())})
    tally = driver.new_tally(25)
    for block in driver.CountingReader(100, 1000)(shards):
        for report in driver.CountingSink()(driver.CountingLabeller()(block)).to_pylist():
            tally.add(Report.from_row(report))
    assert tally.ended.all() and tally.summary.counts.num_images == 2500 and tally.summary.num_blocks == 5
    figures = driver.measure_tally(100, 300)
    assert figures["us_per_shard"] > 0 and figures["peak_bytes"] > 2**20
