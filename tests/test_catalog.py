"""The plan: a shard is done only if its very file is known to come from its very version."""

import random

from pipeline.catalog import Finished, plan, shards, unknown
from pipeline.storage import File

A, B = File("a.tar", 10, "1"), File("x/b.tar.gz", 20, "2")
A_FILE, B_FILE = File("a.tar.parquet", 5, "p"), File("x/b.tar.gz.parquet", 6, "q")
KNOWN = [Finished(A_FILE, 10, "1"), Finished(B_FILE, 20, "2")]


def test_nothing_is_pending_when_all_is_done():
    made = plan([A, B], [A_FILE, B_FILE], KNOWN)
    assert (made.pending, made.num_done, made.orphans) == ([], 2, [])


def test_new_changed_deleted_and_replaced():
    assert plan([A, B], [A_FILE], KNOWN).pending == [B]                                    # its file was deleted
    assert plan([File("a.tar", 10, "9"), B], [A_FILE, B_FILE], KNOWN).pending == [File("a.tar", 10, "9")]
    assert plan([File("a.tar", 11, "1"), B], [A_FILE, B_FILE], KNOWN).pending == [File("a.tar", 11, "1")]
    assert plan([A, B], [File("a.tar.parquet", 5, "r"), B_FILE], KNOWN).pending == [A]     # a file nobody knows
    assert plan([A, B], [A_FILE, B_FILE], []).pending == [A, B]


def test_a_tar_and_its_compressed_twin_never_meet():
    twin = File("a.tar.gz", 10, "1")
    made = plan([A, twin], [A_FILE], KNOWN)
    assert made.pending == [twin] and made.num_done == 1


def test_files_of_removed_shards_are_named_not_removed():
    assert plan([A], [A_FILE, B_FILE], KNOWN).orphans == [B_FILE]


def test_only_tars_are_shards_and_order_does_not_matter():
    assert shards([B, File("readme.txt", 1, "1"), A]) == [A, B]


def test_the_ledger_leaves_only_unknown_files_to_read():
    assert unknown([A_FILE, B_FILE], KNOWN[:1]) == [B_FILE]


def test_every_shard_is_done_or_pending_never_both():
    rng = random.Random(0)
    for _ in range(200):
        inputs = [File(f"{n}.tar", rng.randint(1, 2), str(rng.randint(1, 2))) for n in range(8) if rng.random() < .8]
        outputs = [File(f"{n}.tar.parquet", 1, str(rng.randint(1, 2))) for n in range(8) if rng.random() < .6]
        known = [Finished(File(f"{n}.tar.parquet", 1, str(e)), rng.randint(1, 2), str(rng.randint(1, 2)))
                 for n in range(8) for e in (1, 2) if rng.random() < .7]
        made = plan(inputs, outputs, known)
        assert made.num_done + len(made.pending) == len(inputs)
        for shard in set(inputs) - set(made.pending):
            assert any(k.file in outputs and k.file.path == shard.path + ".parquet"
                       and (k.size, k.etag) == (shard.size, shard.etag) for k in known)
