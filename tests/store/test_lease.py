"""One run at a time: who gets the lease, who is told what, and when it is over."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.errors import UserError
from pipeline.store import lease, storage
from pipeline.store.lease import Busy, Lease, hold_lease
from tests.support.processes import wait_until


def mark(folder, **changes) -> None:
    values = {"run_id": "r0", "place": "elsewhere", "pid": 1, "since": time.time(), "until": time.time() + 50}
    storage.put_whole(str(folder / "lease.json"), json.dumps(values | changes).encode())


def hold(folder, run_id: str):
    return hold_lease(str(folder), run_id, "--output", "--no-lease")


def test_the_second_is_told_who_has_it(tmp_path):
    with hold(tmp_path, "r1"):
        with pytest.raises(Busy, match=r"is being written by run r1 .* --no-lease"), hold(tmp_path, "r2"):
            pass
        assert json.loads((tmp_path / "lease.json").read_text())["run_id"] == "r1"
    assert not (tmp_path / "lease.json").exists()
    with hold(tmp_path, "r2"):
        pass


def test_it_is_over_at_its_deadline_or_with_its_process(tmp_path):
    mark(tmp_path)
    with pytest.raises(Busy, match="run r0"), hold(tmp_path, "r1"):
        pass
    for changes in ({"until": time.time() - 1}, {"place": lease.name_place(), "pid": 2**22 + 1}):
        mark(tmp_path, **changes)
        with hold(tmp_path, "r1") as mine:
            assert mine.lost is None


def test_it_is_renewed_and_its_loss_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.02)
    with hold(tmp_path, "r1") as mine:
        first = json.loads((tmp_path / "lease.json").read_text())["until"]
        wait_until(lambda: json.loads((tmp_path / "lease.json").read_text())["until"] > first, "it is not renewed", 10)
        mine.check()

        def is_lost() -> bool:
            mark(tmp_path, run_id="r2")  # again, if a renewal was under way
            return mine.lost is not None

        wait_until(is_lost, "the loss is not noticed", 10, 0.05)
        with pytest.raises(Busy, match="run r2 has taken it"):
            mine.check()
    assert json.loads((tmp_path / "lease.json").read_text())["run_id"] == "r2"


def test_of_several_who_find_it_over_one_takes_it(tmp_path):
    """Each has seen the old mark before any of them takes it: the slowest must not remove the lease of the first."""
    for _ in range(20):
        mark(tmp_path, until=time.time() - 1)
        old = json.loads((tmp_path / "lease.json").read_text())
        leases = [Lease(str(tmp_path), f"r{number}", "--output", "--no-lease") for number in range(1, 9)]
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(lambda one, old=old: one.take_over(old), leases)) == 1
        assert json.loads((tmp_path / "lease.json").read_text())["run_id"] != "r0"
        assert [path.name for path in tmp_path.iterdir()] == ["lease.json"]


def test_who_died_while_taking_over_stops_nobody(tmp_path, monkeypatch):
    mark(tmp_path, until=time.time() - 1)
    dead = Lease(str(tmp_path), "dead", "--output", "--no-lease")
    monkeypatch.setattr(storage, "put_whole", lambda *_: 1 / 0)
    monkeypatch.setattr(storage, "remove", lambda *_: None)
    with pytest.raises(ZeroDivisionError):
        dead.take_over(json.loads((tmp_path / "lease.json").read_text()))
    monkeypatch.undo()
    monkeypatch.setattr(lease, "LEASE_S", 0.3)
    with hold(tmp_path, "r1"):
        assert json.loads((tmp_path / "lease.json").read_text())["run_id"] == "r1"


def test_an_output_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output"), hold(tmp_path / "file" / "out", "r1"):
        pass
