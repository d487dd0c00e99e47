"""The plan: a shard is done only if its very file is known to come from its very version."""

import random

import pyarrow as pa

from pipeline.formats.loose import group_ordered_files
from pipeline.store.listing import FILES
from pipeline.tables.plan import FINISHED, count_requests, find_unrecorded, limit_plan, make_plan

A, B = ("a.tar", 10, "1"), ("x/b.tar.gz", 20, "2")
A_FILE, B_FILE = ("a.tar.parquet", 5, "p"), ("x/b.tar.gz.parquet", 6, "q")
KNOWN = [(*A_FILE, 10, "1"), (*B_FILE, 20, "2")]


def table(schema: pa.Schema, rows: list[tuple]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)


def rows(files: pa.Table) -> list[tuple]:
    return [tuple(row[name] for name in FILES.names) for row in files.to_pylist()]


def planned(inputs: list[tuple], outputs: list[tuple], known: list[tuple]) -> tuple[list[tuple], int, list[tuple]]:
    made = make_plan(table(FILES, inputs), table(FILES, outputs), table(FINISHED, known))
    return rows(made.pending), made.num_done, rows(made.orphans)


def test_nothing_is_pending_when_all_is_done():
    assert planned([A, B], [A_FILE, B_FILE], KNOWN) == ([], 2, [])


def test_new_changed_deleted_and_replaced():
    assert planned([A, B], [A_FILE], KNOWN)[0] == [B]                                    # its file was deleted
    for changed in (("a.tar", 10, "9"), ("a.tar", 11, "1")):
        assert planned([changed, B], [A_FILE, B_FILE], KNOWN)[0] == [changed]
    assert planned([A, B], [("a.tar.parquet", 5, "r"), B_FILE], KNOWN)[0] == [A]         # a file nobody knows
    assert planned([B, A], [A_FILE, B_FILE], [])[0] == [A, B]


def test_a_tar_and_its_compressed_twin_never_meet():
    twin = ("a.tar.gz", 10, "1")
    assert planned([A, twin], [A_FILE], KNOWN)[:2] == ([twin], 1)


def test_files_of_removed_shards_are_named_not_removed():
    assert planned([A], [A_FILE, B_FILE], KNOWN)[2] == [B_FILE]


def test_the_ledger_leaves_only_unknown_files_to_read():
    assert rows(find_unrecorded(table(FILES, [A_FILE, B_FILE]), table(FINISHED, KNOWN[:1]))) == [B_FILE]


def test_every_shard_is_done_or_pending_never_both():
    rng = random.Random(0)
    for _ in range(200):
        inputs = [(f"{n}.tar", rng.randint(1, 2), str(rng.randint(1, 2))) for n in range(8) if rng.random() < .8]
        outputs = [(f"{n}.tar.parquet", 1, str(rng.randint(1, 2))) for n in range(8) if rng.random() < .6]
        known = [(f"{n}.tar.parquet", 1, str(e), rng.randint(1, 2), str(rng.randint(1, 2)))
                 for n in range(8) for e in (1, 2) if rng.random() < .7]
        pending, num_done, _ = planned(inputs, outputs, known)
        done = [(name, size, etag) for name, size, etag in inputs
                if any((name + ".parquet", *file) == entry[:3] and (size, etag) == entry[3:]
                       for entry in known for file in [output[1:] for output in outputs
                                                       if output[0] == name + ".parquet"])]
        assert sorted(pending) == sorted(set(inputs) - set(done)) and num_done == len(done)


def test_a_limit_chooses_the_same_shards_each_time():
    """Whatever is done already, and in whatever order they are listed; a larger limit chooses these and others."""
    inputs = [(f"{n}/{n}.tar", 1, "1") for n in range(50)]
    whole = make_plan(table(FILES, inputs), table(FILES, []), table(FINISHED, []))
    listed = table(FILES, inputs)["path"]
    few, more = (limit_plan(whole, listed, limit) for limit in (7, 20))
    assert (len(few.pending), few.num_done, few.num_beyond) == (7, 0, 43)
    assert {*rows(few.pending)} < {*rows(more.pending)} and few.pending != whole.pending.slice(0, 7)
    assert limit_plan(whole, table(FILES, inputs[::-1])["path"], 7).pending == few.pending
    path = rows(few.pending)[3][0]
    done = make_plan(table(FILES, inputs), table(FILES, [(f"{path}.parquet", 5, "p")]),
                     table(FINISHED, [(f"{path}.parquet", 5, "p", 1, "1")]))
    again = limit_plan(done, listed, 7)
    assert rows(again.pending) == [row for row in rows(few.pending) if row[0] != path] and again.num_done == 1
    assert limit_plan(whole, listed, 50) == limit_plan(whole, listed, 1000) == whole


def test_requests_are_counted_by_blocks():
    assert count_requests(table(FILES, [])) == (0, 0)
    assert count_requests(table(FILES, [("a.tar", 1, "e"), ("b.tar", 2**23, "e"), ("c.tar", 2**23 + 1, "e")])) == (7, 6)
    files = table(FILES, [(f"{n}.jpg", 1000, "e") for n in range(40)])
    groups = group_ordered_files(files)
    assert count_requests(groups) == (80, 2 * len(groups))
