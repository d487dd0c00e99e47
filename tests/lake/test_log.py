"""The log of a lake table: any order of nights, writers at once, lost replies, odd names, files of others."""

import random
import string
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from pipeline.errors import UserError
from pipeline.store import storage
from pipeline.tables.lake import log
from pipeline.tables.layout import LAKES, data_path, split_data_path
from pipeline.tables.table_paths import table_path
from tests.lake.lakes import SCHEMA, change, commit, lake_at, listed, put, read_versions
from tests.support.s3 import forget_s3

NAMES = ("a.tar", "dt=1/b c.tar", "it's 100%41.tar", "é/ü#?.tar", "label=x/~7E.tar", "x" * 120 + "é" * 50 + ".tar")


@pytest.fixture(params=LAKES)
def lake(request, tmp_path):
    return lake_at(tmp_path, request.param)


def rows_of(table: pa.Table) -> list[tuple]:
    return sorted(zip(*(table[name].to_pylist() for name in ("shard", "index", "key")), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_each_version_has_the_rows_of_its_night(lake, seed):
    """Shards are new, changed, changed back or gone in any order; each night is one version, and stays readable."""
    rng = random.Random(seed)
    now: dict[str, tuple] = {}
    nights = []
    for night in range(6):
        files, gone = {}, []
        for shard in NAMES:
            if rng.random() < 0.5:
                number, version = rng.randrange(0, 4), rng.randrange(3)
                files[put(lake, shard, number, version=version)] = number
                now[shard] = (number, version)
            elif shard in now and rng.random() < 0.3:
                del now[shard]
                gone.append(table_path(shard))
        before = listed(lake)
        has_changed = commit(lake, files, tuple(gone), f"night-{night}")
        assert has_changed == (listed(lake) != before)
        if has_changed:
            nights.append(sorted((shard, i, f"k{i} v{version}")
                                 for shard, (number, version) in now.items() for i in range(number)))
        assert not commit(lake, files, tuple(gone))  # the same again is no version
    assert [rows_of(version) for version in read_versions(lake)] == nights


def test_writers_at_once_lose_nothing(lake):
    """Eight writers commit tables of their own and one that all have: each table is there once, whoever was last."""
    own = {writer: put(lake, f"{writer}.tar", 2) for writer in range(8)}
    shared = {writer: put(lake, "all.tar", 1, version=writer) for writer in range(8)}
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda writer: commit(lake, {own[writer]: 2, shared[writer]: 1}), range(8)))
    now = listed(lake)
    assert now.keys() == {*(f"{writer}.tar.parquet" for writer in range(8)), "all.tar.parquet"}
    assert now["all.tar.parquet"] in {file.etag for file in shared.values()}
    assert [version.num_rows for version in read_versions(lake)] == [3, 5, 7, 9, 11, 13, 15, 17]


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.parametrize("kind", LAKES)
def test_faults_of_the_store(kind, proxy, tmp_path, monkeypatch):
    """A third of all requests fail, also after the store did the work: nothing is lost, nothing is double."""
    monkeypatch.setenv("PYICEBERG_CATALOG__LABELS__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__LABELS__URI", f"sqlite:///{tmp_path}/catalog.db")
    lake = log.LakeTable("s3://photos/faults/" + kind, "m", kind)
    proxy.rate = 0.33
    wanted = {}
    for night in range(4):
        file = put(lake, f"{night % 3}.tar", 2, version=night)
        wanted[file.path] = file.etag
        commit(lake, {file: 2})
        assert listed(lake) == wanted
    proxy.rate = 0
    assert proxy.counts.total() > 10
    forget_s3()


@pytest.mark.s3
@pytest.mark.parametrize("method", ["PUT"])
def test_a_lost_reply_to_the_commit(proxy, method):
    """The log has the version, and nobody said so."""
    lake = log.LakeTable("s3://photos/faults/lost", "m", "delta")
    first, second = put(lake, "a.tar", 1), put(lake, "a.tar", 2, version=1)
    commit(lake, {first: 1})
    proxy.once("lost", method, "_delta_log")
    commit(lake, {second: 2})
    assert not proxy.chosen and listed(lake) == {"a.tar.parquet": second.etag}
    assert log.open_log(lake).table.version() == 2


@pytest.mark.parametrize("seed", range(20))
def test_any_name_has_a_path_of_plain_characters(seed):
    rng = random.Random(seed)
    letters = string.ascii_letters + "~%#?&=+ .'\"\\é漢🙂\u0301\n"
    names = ["".join(rng.choices(letters, k=rng.randrange(1, 90))) for _ in range(rng.randrange(1, 4))]
    path = "/".join(names) + ".parquet"
    placed = data_path(path, "0" * 32)
    assert split_data_path(placed) == (path, "0" * 32)
    assert {*placed} <= {*string.ascii_letters, *string.digits, *"/._-~"}
    assert max(map(len, placed.split("/"))) <= 201


def test_a_table_that_others_have_rewritten_is_refused(lake):
    """As OPTIMIZE does. To go on would count the rows twice."""
    file = put(lake, "a.tar", 2)
    commit(lake, {file: 2})
    opened = log.open_log(lake)
    storage.put_whole(storage.join(lake.folder, "part-0001.parquet"),
                      storage.read_bytes(storage.join(lake.folder, data_path(file.path, file.etag.split(":")[1]))))
    opened.schema = SCHEMA
    opened.commit([log.Entry("part-0001.parquet", file.size, 2)], [], "x")
    with pytest.raises(UserError, match=r"files that this job did not write, such as part-0001\.parquet"):
        log.list_snapshot(lake)


def test_no_end_of_conflicts_is_an_error(lake, monkeypatch):
    def conflict(*_):
        raise log.Conflict

    file = put(lake, "a.tar", 2)
    commit(lake, {file: 2})
    monkeypatch.setattr(type(log.open_log(lake)), "commit", conflict)
    monkeypatch.setattr(log.random, "uniform", lambda *_: 0)
    with pytest.raises(OSError, match="changed by others 20 times"):
        log.commit(lake, change({put(lake, "b.tar", 1): 1}), SCHEMA, "r")
    assert listed(lake) == {file.path: file.etag}
