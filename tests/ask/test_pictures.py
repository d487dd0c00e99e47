"""Pictures for a question: read again by their place, and what cannot be shown is said."""

import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.ask.pictures import Picture, Source, draw_pictures, make_pictures, render_pictures
from pipeline.commands.flags import NO_INPUT_FLAGS, choose_inputs
from pipeline.errors import UserError
from pipeline.tables.history import read_settings
from pipeline.tables.owner.models import only_model
from tests.support.jobs import SEED, job
from tests.support.tars import make_tar


def colour(red: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 50, 3), (red, 90, 200), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def red_of(picture: Picture) -> int:
    return int(np.array(Image.open(io.BytesIO(picture.jpeg or b"")))[75, 75, 0])


def write_inputs(folder: Path) -> None:
    """Six images as tars, as Parquet, and as files that a manifest lists."""
    for name in ("tars", "parquet", "loose"):
        (folder / name).mkdir()
    reds = [10, 50, 90, 130, 170, 210]
    (folder / "tars/a.tar").write_bytes(make_tar(*((f"{n}.png", colour(red)) for n, red in enumerate(reds))))
    pq.write_table(pa.table({"key": [str(n) for n in range(6)], "image": [colour(red) for red in reds]}),
                   folder / "parquet/a.parquet")
    for number, red in enumerate(reds):
        (folder / f"loose/{number}.png").write_bytes(colour(red))
    (folder / "list.csv").write_text("uri\n" + "".join(f"loose/{n}.png\n" for n in range(6)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tars", "parquet", "loose", "list.csv"])
def test_the_images_of_rows_from_each_kind_of_input(tmp_path, kind):
    write_inputs(tmp_path)
    output = tmp_path / "out"
    done = job("label", "--input", tmp_path / kind, "--output", output, *SEED)
    assert done.returncode == 0, done.stdout + done.stderr
    settings = read_settings(str(output), None)
    source = Source(str(output), only_model(str(output)), *choose_inputs(NO_INPUT_FLAGS, settings))
    rows = pq.read_table(output / "labels", columns=["shard", "index", "key"], partitioning=None)
    order = [4, 1, 5]
    pictures = make_pictures(rows.column_names, [rows.slice(n, 1).to_pylist()[0].values() for n in order])
    draw_pictures(pictures, source)
    assert [red_of(picture) for picture in pictures] == pytest.approx([170, 50, 210], abs=3)
    if kind == "tars":
        members = [("0.png", colour(10)), ("1.png", colour(51)), ("2.png", colour(90))]
        (tmp_path / "tars/a.tar").write_bytes(make_tar(*members))
        again = make_pictures(["shard", "key"], [("a.tar", "0"), ("a.tar", "1"), ("a.tar", "4"), ("b.tar", "1")])
        draw_pictures(again, source)
        assert red_of(again[0]) == pytest.approx(10, abs=3)
        assert [picture.miss for picture in again[1:3]] == ["the image was changed since it was labelled",
                                                            "the shard has no such image any more"]
        assert again[3].miss and not again[3].jpeg


def test_keys_are_escaped_and_misses_are_told():
    evil = "<script>alert(1)</script>"
    pictures = make_pictures(["shard", "key", "label", "embedding"], [("a", evil, "x & y", [1.0])])
    pictures[0].miss = "<b>gone</b>"
    page = render_pictures(evil, [evil], [(evil, pictures)])
    assert "<script" not in page and "<b>" not in page and page.count("&lt;script&gt;") == 5
    assert "x &amp; y" in page and "embedding" not in page and re.search("no picture:.*gone", page)


@pytest.mark.parametrize("columns", [["label"], ["shard"], ["key", "index"]])
def test_an_answer_that_names_no_images(columns):
    with pytest.raises(UserError, match="select shard, and index or key"):
        make_pictures(columns, [["x"] * len(columns)])
