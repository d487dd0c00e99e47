"""Near-duplicates as a comparison of all pairs finds them."""

import io
import json
import re
import shutil

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.embeddings import near_duplicates as search
from pipeline.embeddings.near_duplicates import NEAR_DUPLICATES, compare_vectors, find_near_duplicates
from pipeline.embeddings.tables import list_tables
from pipeline.embeddings.whitening import learn_whitening
from pipeline.store.lease import hold_lease
from tests.embeddings.embedded import MODEL, clusters, make_output, write_table
from tests.support.cluster import shared_cluster
from tests.support.jobs import SEED, job
from tests.support.tars import make_tar


def groups_of(rows) -> set[frozenset]:
    """The groups of a table of NEAR_DUPLICATES, each as a set of shards and indexes."""
    groups: dict[int, set] = {}
    for row in rows.to_pylist():
        groups.setdefault(row["group"], set()).add((row["shard"], row["index"]))
    return {frozenset(group) for group in groups.values()}


@pytest.mark.parametrize("rows_of_list", [10, 40, 5000])
@pytest.mark.parametrize("task_rows", [1, 10**6])
def test_the_groups_are_those_of_all_pairs(tmp_path, monkeypatch, rows_of_list, task_rows):
    monkeypatch.setattr(search, "ROWS_OF_LIST", rows_of_list)
    monkeypatch.setattr(search, "TASK_ROWS", task_rows)
    monkeypatch.setattr(search, "PARTITION_BYTES", 2**20)
    monkeypatch.setattr(search, "CHUNK_CELLS", 1000)
    rng = np.random.default_rng(rows_of_list)
    vector_ND, of_N = clusters(rng, [1] * 150 + [2] * 40 + [3, 5, 30], 0.1)
    tables = list_tables(make_output(tmp_path, vector_ND, 37), MODEL)
    rows = find_near_duplicates(tables, 0.8, str(tmp_path / "lists"))
    assert rows.schema.equals(NEAR_DUPLICATES) and not (tmp_path / "lists").exists()
    expected = {frozenset((f"{row // 37:04}.tar", int(row % 37)) for row in np.flatnonzero(of_N == centre))
                for centre in range(of_N.max() + 1)}
    assert groups_of(rows) == {group for group in expected if len(group) > 1}
    unit_NK = learn_whitening(tables)[0](vector_ND)
    cosine_NN = unit_NK @ unit_NK.T - 2 * np.eye(len(unit_NK))
    for row in rows.to_pylist():
        assert row["cosine"] == pytest.approx(cosine_NN[int(row["shard"][:4]) * 37 + row["index"]].max(), abs=1e-3)


def test_one_of_each_group_is_kept_that_of_most_pixels(tmp_path):
    rng = np.random.default_rng(0)
    one, two = rng.standard_normal((2, 1536)).astype(np.float32)
    output = str(tmp_path / "out")
    write_table(output, "a.tar", np.stack([one, two, one, one]), sizes=[5, 7, 9, 9])
    write_table(output, "b.tar", np.stack([two, one, one]), sizes=[7, 8, 9], errors=[None, None, "truncated"])
    rows = find_near_duplicates(list_tables(output, MODEL), 0.99, str(tmp_path / "lists")).to_pylist()
    kept = [(row["group"], row["shard"], row["index"]) for row in rows if row["keep"]]
    assert kept == [(0, "a.tar", 2), (1, "a.tar", 1)]
    assert [(row["shard"], row["index"]) for row in rows if row["group"] == 0] == [
        ("a.tar", 0), ("a.tar", 2), ("a.tar", 3), ("b.tar", 1)]  # a rejected image has no embedding
    assert {round(row["cosine"], 3) for row in rows} == {1.0}


def test_many_equal_vectors_are_compared_once(monkeypatch):
    monkeypatch.setattr(search, "DEGENERATE", 100)
    rng = np.random.default_rng(0)
    vector_ND = rng.standard_normal((60, 1536)).astype(np.float16)
    vector_ND /= np.linalg.norm(vector_ND.astype(np.float32), axis=1, keepdims=True).astype(np.float16)
    of_N = np.concatenate([np.arange(60), np.full(3000, 7)])
    edges, best_N = compare_vectors(vector_ND[of_N], 0.99)
    groups = search._join(len(of_N), edges)
    assert (np.flatnonzero(groups == 7) == np.flatnonzero(of_N == 7)).all() and len(set(groups)) == 60
    assert (best_N[of_N == 7] == 1).all() and (best_N[of_N != 7] < 0.5).all()


def test_no_rows_and_none_alike(tmp_path):
    rng = np.random.default_rng(0)
    tables = list_tables(make_output(tmp_path, rng.standard_normal((40, 1536)).astype(np.float32), 40), MODEL)
    assert len(find_near_duplicates(tables, 0.95, str(tmp_path / "lists"))) == 0
    write_table(str(tmp_path / "out"), "0000.tar", np.zeros((2, 1536), np.float32), errors=["empty"] * 2)
    assert len(find_near_duplicates(list_tables(str(tmp_path / "out"), MODEL), 0.95, str(tmp_path / "lists"))) == 0


@pytest.mark.slow
def test_the_job_finds_planted_images_and_shows_them(tmp_path, photographs):
    """Photographs, recompressed and resized; a page with their pictures; one image is gone since."""
    def change(data: bytes, size: int, quality: int) -> bytes:
        image, buffer = Image.open(io.BytesIO(data)).convert("RGB"), io.BytesIO()
        image.thumbnail((size, size))
        image.save(buffer, "JPEG", quality=quality)
        return buffer.getvalue()

    shards, output = tmp_path / "in", tmp_path / "out"
    shards.mkdir()
    (shards / "a.tar").write_bytes(make_tar(*photographs))
    small = [(f"small {name}<b>.jpg", change(data, 500, 60)) for name, data in photographs[:4]]
    (shards / "b.tar").write_bytes(make_tar(*small))
    done = job("label", "--input", shards, "--output", output, *SEED)
    assert done.returncode == 0, done.stdout + done.stderr
    (shards / "b.tar").write_bytes(make_tar(*small[:3]))
    asked = job("duplicates", "--output", output, "--threshold", 0.9, "--summary", "-")
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert json.loads(asked.stdout)["num_rows"] == len(photographs) + 4
    table, = (output / "near_duplicates").glob("*.parquet")
    pairs = duckdb.sql(f"SELECT count(*), count(*) FILTER (keep) FROM '{table}' GROUP BY \"group\"").fetchall()
    assert pairs and all(kept == 1 for _, kept in pairs)
    found = [key for key in pq.read_table(table)["key"].to_pylist() if key.startswith("small ")]
    assert len(found) >= 3
    page = table.with_suffix(".html").read_text()
    assert "<script" not in page and "<b>" not in page and len(re.findall("data:image/jpeg", page)) >= 4
    assert "the shard has no such image any more" in page
    before = pq.read_table(table).to_pylist()
    table.unlink()
    on_ray = job("duplicates", "--output", output, "--threshold", 0.9, **shared_cluster().driver)
    assert on_ray.returncode == 0 and pq.read_table(table).to_pylist() == before, on_ray.stdout + on_ray.stderr
    with hold_lease(str(output / "near_duplicates"), "x", "--output", "x"):
        assert job("duplicates", "--output", output).returncode == 4
    shutil.rmtree(shards)
