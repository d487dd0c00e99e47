"""The index: its answers against all pairs, and how it is kept up."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.embeddings import index as indexing
from pipeline.embeddings import neighbours
from pipeline.embeddings.index import index_folder, read_index, update_index
from pipeline.embeddings.near_duplicates import find_near_duplicates
from pipeline.embeddings.neighbours import Asked, open_neighbours
from pipeline.embeddings.tables import list_tables
from pipeline.errors import UserError
from pipeline.store import storage
from tests.embeddings.embedded import MODEL, clusters, make_output, write_table
from tests.support.s3 import forget_s3


def update(output: str):
    return update_index(list_tables(output, MODEL), index_folder(output, MODEL), lambda: None)


def nearest(vector_ND, at, number, rows_of_table):
    """Shard and index of the nearest rows, by all cosines."""
    unit_ND = vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)
    cosine_N = unit_ND @ unit_ND[at]
    cosine_N[at] = -2
    return [(f"{row // rows_of_table:04}.tar", int(row % rows_of_table)) for row in np.argsort(-cosine_N)[:number]]


@pytest.fixture
def vectors() -> np.ndarray:
    return clusters(np.random.default_rng(0), [20] * 30, 0.7)[0]


@pytest.mark.parametrize("segment_rows", [50, 10**6])
def test_the_answers_are_the_nearest_rows(tmp_path, monkeypatch, vectors, segment_rows):
    monkeypatch.setattr(indexing, "SEGMENT_ROWS", segment_rows)
    monkeypatch.setattr(indexing, "ROWS_OF_LIST", 20)
    output = make_output(tmp_path, vectors, 37)
    done = update(output)
    assert (done.num_rows, done.num_new) == (600, 600) and done.num_bytes > 600 * 2 * 1536
    asking = open_neighbours(output, MODEL)
    assert (asking.num_known, asking.num_unknown) == (600, 0)
    for at in range(0, 600, 41):
        asked = Asked(vectors[at], f"{at // 37:04}.tar", at % 37)
        exact = asking.find(asked, 10, exact=True).to_pylist()
        assert {(row["shard"], row["index"]) for row in exact[:9]} <= {*nearest(vectors, at, 10, 37)}
        quick = asking.find(asked, 10).to_pylist()
        places = [{(row["shard"], row["index"]) for row in rows} for rows in (exact, quick)]
        assert len(places[0] & places[1]) >= 9
        a, b = vectors[at], vectors[int(exact[0]["shard"][:4]) * 37 + exact[0]["index"]]
        assert exact[0]["cosine"] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=2e-4)


def test_an_image_is_found_by_its_key_and_its_digest(tmp_path, vectors):
    output = make_output(tmp_path, vectors[:60], 20)
    update(output)
    asking = open_neighbours(output, MODEL)
    assert (asking.find_image("k7", None, None).shard, asking.find_image("k7", None, "0002.tar").shard) == (
        "0000.tar", "0002.tar")
    digest = asking.segments[0].rows["sha256"][33].as_py()
    found = asking.find_image(None, digest, None)
    assert (found.shard, found.index) == ("0001.tar", 13)
    np.testing.assert_allclose(found.embedding_D, vectors[33] / np.linalg.norm(vectors[33]), atol=1e-4)
    for key, shard, message in (("absent", None, "no image absent that"), ("k1", "x.tar", "k1 in shard x.tar"),
                                (None, None, "setting key")):
        with pytest.raises(UserError, match=message):
            asking.find_image(key, None, shard)


def test_new_changed_and_removed_tables(tmp_path, monkeypatch, vectors):
    monkeypatch.setattr(indexing, "ROWS_OF_LIST", 20)
    output = make_output(tmp_path, vectors[:200], 20)
    update(output)
    before = read_index(index_folder(output, MODEL))
    assert update(output).num_new == 0 and read_index(index_folder(output, MODEL)) == before
    write_table(output, "0003.tar", vectors[200:215], etag="e2")
    write_table(output, "0099.tar", vectors[300:310])
    Path(output, f"labels/model={MODEL}/0005.tar.parquet").unlink()
    now = np.concatenate([vectors[:60], vectors[200:215], vectors[80:100], vectors[120:200], vectors[300:310]])
    names = ([(f"{row // 20:04}.tar", row % 20) for row in range(60)] + [("0003.tar", n) for n in range(15)]
             + [(f"{row // 20:04}.tar", row % 20) for row in [*range(80, 100), *range(120, 200)]]
             + [("0099.tar", n) for n in range(10)])

    def check():
        asking = open_neighbours(output, MODEL)
        unit_ND = now / np.linalg.norm(now, axis=1, keepdims=True)
        for at in range(0, len(now), 7):
            rows = asking.find(Asked(now[at], *names[at]), 5, exact=True).to_pylist()
            cosine_N = unit_ND @ unit_ND[at]
            cosine_N[at] = -2
            found = cosine_N[[names.index((row["shard"], row["index"])) for row in rows]]
            np.testing.assert_allclose(found, np.sort(-cosine_N)[:5] * -1, atol=2e-4)  # two may be nearly as near
        return asking

    asking = check()  # the index is behind, and the answer is right all the same
    assert (asking.num_known, asking.num_unknown) == (160, 25)
    assert asking.find_image("k3", None, "0099.tar").shard == "0099.tar"
    done = update(output)
    assert done.num_new == 25 and done.num_segments == 2
    asking = check()
    assert (asking.num_known, asking.num_unknown) == (185, 0)
    for number in range(60, 64):  # most rows of a segment are dead: it is made anew
        Path(output, f"labels/model={MODEL}/{number - 60:04}.tar.parquet").unlink()
    assert update(output).num_new == 110 and open_neighbours(output, MODEL).num_known == 110


def test_small_segments_become_one(tmp_path, monkeypatch, vectors):
    monkeypatch.setattr(indexing, "MOST_SMALL", 3)
    output = make_output(tmp_path, vectors[:100], 100)
    counts = [update(output).num_segments]
    for night in range(1, 6):
        write_table(output, f"{night:04}.tar", vectors[100 * night:100 * night + 10])
        counts.append(update(output).num_segments)
    assert counts == [1, 2, 3, 1, 2, 3]
    assert open_neighbours(output, MODEL).num_known == 150
    folder = Path(index_folder(output, MODEL))
    names = {segment.name for segment in read_index(str(folder)).segments}
    files = {path.stem for path in folder.glob("segment-*")}
    assert names <= files and len(files) <= len(names) + 3  # those of before stay for readers that have them open


def test_rejected_images_and_no_images(tmp_path):
    output = str(tmp_path / "out")
    write_table(output, "a.tar", np.ones((3, 1536), np.float32), errors=[None, "empty", None])
    write_table(output, "b.tar", np.ones((2, 1536), np.float32), errors=["empty", "empty"])
    assert update(output).num_rows == 5
    rows = open_neighbours(output, MODEL).find(Asked(np.ones(1536, np.float32)), 10).to_pylist()
    assert [(row["shard"], row["index"]) for row in rows] == [("a.tar", 0), ("a.tar", 2)]
    assert [row["cosine"] for row in rows] == pytest.approx([1, 1], abs=2e-4)


def test_a_damaged_index_is_made_anew(tmp_path, vectors):
    output = make_output(tmp_path, vectors[:40], 20)
    update(output)
    place = Path(index_folder(output, MODEL), "index.json")
    for text in ("", "{}", json.dumps({"format": 99}), "[1]"):
        place.write_text(text)
        assert open_neighbours(output, MODEL) is None and update(output).num_new == 40


def test_an_index_in_a_store_is_fetched_once(tmp_path, monkeypatch, vectors):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "store").mkdir()
    (tmp_path / "store/segment-1.faiss").write_bytes(b"data")
    path = neighbours.local_file(f"file://{tmp_path}/store", "segment-1.faiss")
    assert path.read_bytes() == b"data" and path.parent == tmp_path / "cache/label-pipeline/index"
    (tmp_path / "store/segment-1.faiss").unlink()
    assert neighbours.local_file(f"file://{tmp_path}/store", "segment-1.faiss") == path


@pytest.mark.s3
def test_an_index_and_lists_in_s3(s3, tmp_path, monkeypatch, vectors):
    for name, value in s3[0].items():
        monkeypatch.setenv(name, value)
    forget_s3()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    output = "s3://photos/embeddings"
    for number in range(3):
        write_table(output, f"{number:04}.tar", vectors[20 * number:20 * number + 20])
    assert update(output).num_new == 60 and update(output).num_new == 0
    asking = open_neighbours(output, MODEL)
    assert asking.num_known == 60 and len(list((tmp_path / "label-pipeline/index").iterdir())) == 2
    exact = asking.find(Asked(vectors[21], "0001.tar", 1), 3, exact=True).to_pylist()
    assert (exact[0]["shard"], exact[0]["index"]) == nearest(vectors[:60], 21, 1, 20)[0]
    write_table(output, "0003.tar", vectors[21:22])
    rows = find_near_duplicates(list_tables(output, MODEL), 0.9, "s3://photos/embeddings/lists").to_pylist()
    assert {("0001.tar", 1), ("0003.tar", 0)} <= {(row["shard"], row["index"]) for row in rows}
    assert not [path for path in s3[1].find("photos/embeddings") if "lists" in path]
    storage.remove(output)
    forget_s3()
