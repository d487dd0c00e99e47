"""`--keep`: columns of every kind of input beside the labels, typed, the same in all tables, read by four engines."""

import json
import os
import re
from datetime import UTC, datetime

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.formats.kept import ARROW_TYPES, KEPT, NotOfType, add_kept, to_text
from pipeline.inputs.find import find_shards
from pipeline.parse import format_keep, parse_keep
from pipeline.tables.owner.claim import check_root
from pipeline.tables.owner.keep import settle_keep
from tests.stages.test_read import png
from tests.support.config import parse_config
from tests.support.jobs import SEED, job
from tests.support.tars import make_tar

TIME = datetime(2026, 11, 24, 1, 2, 3, tzinfo=UTC)


def settle(folder, output, keep, name=""):
    config = Config(input=str(folder / name) if name else str(folder), output=str(output), keep=keep)
    found = find_shards(config.input, keep=[column.source for column in parse_keep(keep)])
    return settle_keep(config, found.shards, found.root, check_root(config, [], found.root)).keep


@pytest.mark.parametrize("text", ["caption", "caption,year:int,text=txt", "a=b c:float,t:time,is_new:bool"])
def test_a_flag_is_read_and_written_again(text):
    assert format_keep(parse_keep(text)) == text


@pytest.mark.parametrize("text", ["", ",", "a,", "=a", "a=", "a:number", "a,A", "a b", "a.b", "1a", "a=b=c", "x" * 64])
def test_what_is_no_flag(text):
    with pytest.raises(UserError, match="--keep"):
        parse_config(["--input", "a", "--output", "b", f"--keep={text}"], os.environ)


@pytest.mark.parametrize(("kind", "values"), [
    (pa.int32(), [1, -2**31, None]), (pa.uint64(), [2**63 - 1]), (pa.float32(), [1.5, 1e-30, None, float("inf")]),
    (pa.float64(), [0.1, 1e300]), (pa.bool_(), [True, False, None]), (pa.timestamp("us", "UTC"), [TIME, None]),
    (pa.string(), ["", "ü\n", None]), (pa.timestamp("ms", "Europe/Berlin"), [TIME])])
def test_a_value_keeps_all_its_digits_on_its_way(kind, values):
    array = pa.array(values, kind)
    column, = parse_keep(f"x:{'text' if kind == pa.string() else settle_type(kind)}")
    kept = pa.array([[to_text(value)] for value in array.to_pylist()], KEPT)
    rows = add_kept(pa.table({"key": ["k"] * len(values)}), kept, [column])
    assert rows["x"].to_pylist() == array.cast(ARROW_TYPES[column.type]).to_pylist()


def settle_type(kind):
    from pipeline.formats.kept import kept_type
    return kept_type(kind)


def test_nanoseconds_are_cut():
    value, = pa.array([1_764_000_000_123_456_789], pa.timestamp("ns")).to_pylist()
    rows = add_kept(pa.table({"key": ["k"]}), pa.array([[to_text(value)]], KEPT), parse_keep("x:time"))
    assert rows["x"][0].as_py().microsecond == 123_456


def test_other_values_become_text():
    assert to_text([1, "ü", None]) == '[1, "ü", null]' and to_text({"a": b"x"}) == '{"a": "x"}'
    assert to_text(b"\xff") == "\\xff" and to_text(TIME.date()) == "2026-11-24"
    with pytest.raises(NotOfType, match=r"--keep y:int: k2 has 'abc', which is no int; keep it as y:text"):
        add_kept(pa.table({"key": ["k1", "k2"]}), pa.array([["1"], ["abc"]], KEPT), parse_keep("y:int"))


def make_inputs(folder):
    """The same three images with captions and years, in each kind of input. One has neither."""
    facts = [("1", "a dog", 1999), ("2", None, None), ("3", 'a "cat", süß', 2020)]
    members = []
    for key, caption, year in facts:
        members.append((f"{key}.png", png(int(key))))
        if caption:
            members += [(f"{key}.txt", caption.encode()), (f"{key}.json", json.dumps(
                {"caption": caption, "year": year, "tags": ["x"]}).encode())]
    (folder / "tars").mkdir()
    (folder / "tars/a.tar").write_bytes(make_tar(*members))
    (folder / "tars/b.tar").write_bytes(make_tar(("9.png", png(9))))  # without any value
    (folder / "parquet").mkdir()
    captions, years = zip(*((caption, year) for _, caption, year in facts), strict=True)
    pq.write_table(pa.table({"key": ["1", "2", "3"], "image": [png(1), png(2), png(3)], "caption": captions,
                             "year": pa.array(years, pa.int16())}), folder / "parquet/a.parquet")
    pq.write_table(pa.table({"key": ["9"], "image": [png(9)], "caption": pa.array([None], pa.large_string())}),
                   folder / "parquet/b.parquet")
    (folder / "files").mkdir()
    for key in ("1", "2", "3", "9"):
        (folder / f"files/{key}.png").write_bytes(png(int(key)))
    lines = pd.DataFrame({"uri": [f"files/{key}.png" for key in "1239"], "caption": [*captions, None],
                          "year": [*years, None]})
    lines.astype({"year": "Int64"}).to_csv(folder / "list.csv", index=False)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "keep"), [("tars", "caption,year:int"), ("tars", "caption=txt,year:int"),
                                            ("parquet", "caption,year"), ("list.csv", "caption,year:int")])
def test_columns_of_each_kind_of_input_in_four_engines(tmp_path, name, keep):
    make_inputs(tmp_path)
    output = tmp_path / "out"
    options = ("--input", tmp_path / name, "--output", output, *SEED)
    done = job("label", *options, "--keep", keep)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = [("1", "a dog", 1999), ("2", None, None), ("3", 'a "cat", süß', 2020), ("9", None, None)]
    schemas = {str(pq.read_schema(path).remove_metadata()) for path in output.glob("labels/**/*.parquet")}
    assert len(schemas) == 1 and "year: int64" in schemas.pop()
    files = f"{output}/labels/**/*.parquet"

    def rows_of(frame):
        rows = [(os.path.basename(key).partition(".")[0], None if pd.isna(caption) else caption,
                 None if pd.isna(year) else int(year)) for key, caption, year in frame]
        return sorted(rows)

    assert rows_of(duckdb.sql(f"SELECT key, caption, year FROM '{files}'").fetchall()) == expected
    folder, = (output / "labels").iterdir()
    assert rows_of(pd.read_parquet(folder)[["key", "caption", "year"]].itertuples(index=False)) == expected
    assert rows_of(pl.read_parquet(files, hive_partitioning=False)["key", "caption", "year"].iter_rows()) == expected
    assert rows_of(zip(*pq.read_table(folder).select(["key", "caption", "year"]).to_pydict().values(),
                       strict=True)) == expected
    asked = job("query", "--output", output,
                "--sql", "SELECT caption, label IS NOT NULL AS labelled FROM labels WHERE year = 1999")
    assert re.search(r"│ a dog +│ true +│", asked.stdout), asked.stdout + asked.stderr
    # A second run needs the same columns; their types are known.
    assert "nothing to do" in job("label", *options, "--keep", keep.replace(":int", "")).stdout
    for other in (None, "caption", "year,caption", keep.removesuffix(":int") + ":text"):
        refused = job("label", *options, *(("--keep", other) if other else ()))
        assert refused.returncode == 2 and "was labelled with --keep caption" in refused.stderr
        assert "give the same, or another --output" in refused.stderr
    # A new shard gets the same columns.
    if name == "tars":
        (tmp_path / "tars/c.tar").write_bytes(make_tar(("c.png", png(4)), ("c.json", b'{"caption": 7, "year": 7}'),
                                                       ("c.txt", b"7")))
        done = job("label", *options, "--keep", keep)
        assert done.returncode == 0 and "1 labelled" in done.stdout
        assert duckdb.sql(f"SELECT caption, year FROM '{files}' WHERE shard = 'c.tar'").fetchall() == [("7", 7)]


@pytest.mark.slow
def test_a_changed_caption_of_a_manifest_is_labelled_again_and_a_wrong_value_fails_its_shard(tmp_path):
    make_inputs(tmp_path)
    options = ("--input", tmp_path / "list.csv", "--output", tmp_path / "out", *SEED, "--keep", "caption")
    assert job("label", *options).returncode == 0
    text = (tmp_path / "list.csv").read_text()
    (tmp_path / "list.csv").write_text(text.replace("a dog", "two dogs"))
    done = job("label", *options)
    assert done.returncode == 0 and "1 labelled, 0 skipped" in done.stdout
    rows = duckdb.sql(f"SELECT caption FROM '{tmp_path}/out/labels/**/*.parquet' WHERE caption IS NOT NULL").fetchall()
    assert sorted(rows) == [('a "cat", süß',), ("two dogs",)]
    (tmp_path / "tars/c.tar").write_bytes(make_tar(("c.png", png(4)), ("c.json", b'{"year": "soon"}')))
    (tmp_path / "tars/d.tar").write_bytes(make_tar(("d.png", png(5)), ("d.json", b"[1]")))
    done = job("label", "--input", tmp_path / "tars", "--output", tmp_path / "other", *SEED, "--keep", "year:int")
    assert done.returncode == 1 and "2 labelled, 0 skipped (done before), 2 failed" in done.stdout, done.stdout
    assert "c.tar: --keep year:int: c has 'soon', which is no int; keep it as year:text" in done.stdout
    assert "d.tar: d.json, which --keep reads, is no JSON object" in done.stdout


@pytest.mark.parametrize(("name", "keep", "message"), [
    ("tars", "label", "--keep label: the tables have a column label of their own; give it another name, such as "
                      "kept_label=label"),
    ("tars", "Embedding=txt", "the tables have a column Embedding of their own"),
    ("parquet", "colour", "--keep colour: no column 'colour' in the first Parquet files; they have key, image"),
    ("parquet", "picture=image", "--keep picture=image: the column holds bytes"),
    ("list.csv", "colour", "--keep colour: the manifest .* has no such column; it has uri, caption, year"),
    ("files", "caption", "--keep caption: loose images have nothing to keep"),
])
def test_what_cannot_be_kept_is_told_before_anything_is_written(tmp_path, name, keep, message):
    make_inputs(tmp_path)
    with pytest.raises(UserError, match=message):
        settle(tmp_path, tmp_path / "out", keep, name)
    assert not (tmp_path / "out").exists()


def test_the_types_of_a_new_output(tmp_path):
    make_inputs(tmp_path)
    assert settle(tmp_path, tmp_path / "out", "caption,year", "parquet") == "caption:text,year:int"
    assert settle(tmp_path, tmp_path / "out", "caption,year:float", "parquet") == "caption:text,year:float"
    assert settle(tmp_path, tmp_path / "out", "caption,year", "tars") == "caption:text,year:text"
    assert settle(tmp_path, tmp_path / "out", None, "files") is None


def test_a_folder_that_is_a_column_already(tmp_path):
    (tmp_path / "day=1").mkdir()
    (tmp_path / "day=1/a.tar").write_bytes(make_tar(("a.png", png(1)), ("a.day", b"2")))
    with pytest.raises(UserError, match=r"--keep day: the folders day=… of the input are a column day"):
        settle(tmp_path, tmp_path / "out", "day")
    assert settle(tmp_path, tmp_path / "out", "that_day=day") == "that_day=day:text"


@pytest.mark.slow
def test_a_mark_that_is_lost_is_known_from_a_table(tmp_path):
    make_inputs(tmp_path)
    options = ("--input", tmp_path / "parquet", "--output", tmp_path / "out", *SEED)
    assert job("label", *options, "--keep", "year").returncode == 0
    (tmp_path / "out/input.json").unlink()
    assert settle(tmp_path, tmp_path / "out", "year", "parquet") == "year:int"
    assert job("label", *options).returncode == 2
