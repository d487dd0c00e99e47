"""Where the truth is read, no image is read that could be passed over."""

from contextlib import nullcontext

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import Config
from pipeline.formats import loose
from pipeline.inputs.read import Inputs
from pipeline.truth import sources
from tests.support.tars import make_tar

INPUTS = Inputs(None, None, Config.max_image_bytes, None)


def said(where: str, uri: object, **options: object) -> dict[tuple[str, str], str]:
    found = sources.read_truth(sources.Examples(str(uri), where, INPUTS), **options).given
    return {(row["shard"], row["name"]): row["value"] for row in found.to_pylist()}


def test_folders_are_told_by_their_paths(tmp_path, monkeypatch):
    for name in ("cats/1.jpg", "dogs/2.jpg", "3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.setattr(loose, "open_read", lambda _: 1 / 0)
    assert said("folder", tmp_path) == {("images-first", "cats/1.jpg"): "cats", ("images-first", "dogs/2.jpg"): "dogs"}


@pytest.mark.parametrize("where", ["column:label", "folder"])
def test_columns_of_parquet_are_read_without_the_images(tmp_path, where):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array([{"bytes": b"x" * 10**6, "path": f"{name}/1.jpg"} for name in ("cat", "dog")],
                                        kind), "label": ["cat", "dog"]})
    pq.write_table(table, tmp_path / "a.parquet", compression="none", use_dictionary=False, row_group_size=1)
    data = (tmp_path / "a.parquet").read_bytes()
    assert data.count(b"x" * 10**6) == 2
    for at in (data.index(b"x" * 10**6), data.rindex(b"x" * 10**6)):  # pages that nobody can read
        data = data[:at - 30] + b"\xff" * 30 + data[at:]
    (tmp_path / "a.parquet").write_bytes(data)
    assert said(where, tmp_path) == {("a.parquet", "cat/1.jpg"): "cat", ("a.parquet", "dog/1.jpg"): "dog"}


def test_shards_are_read_where_the_caller_wants(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.tar").write_bytes(make_tar((f"a{number}.jpg", b"x"), (f"a{number}.cls", b"7")))
    asked = []

    def run(read, shards):
        for shard in shards:
            asked.append(shard.path)
            yield read(shard)

    assert said("member:cls", tmp_path, open_map=lambda _: nullcontext(run)) == {(f"{number}.tar", f"a{number}"): "7"
                                                                   for number in range(3)}
    assert asked == ["0.tar", "1.tar", "2.tar"]
