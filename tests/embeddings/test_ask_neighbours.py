"""The query neighbours from the command line: by the index, without one, and of an image that is in no table."""

import re
import shutil
from pathlib import Path

import pytest

from tests.support.jobs import job


def rows_of(done) -> list[list[str]]:
    assert done.returncode == 0, done.stdout + done.stderr
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in done.stdout.splitlines()
            if line.startswith("│ ") and ".tar" in line]


@pytest.mark.slow
def test_with_an_index_and_without(undisturbed, photographs, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(undisturbed, output)
    image = tmp_path / "own.png"
    image.write_bytes(dict(photographs)["coffee.png"])
    asking = ("query", "--output", output, "neighbours", "--set", "number=4")
    plain = rows_of(job(*asking, "--set", "key=0/astronaut"))
    of_file = rows_of(job(*asking, "--set", f"image={image}"))
    assert [float(row[-1]) for row in of_file][:2] == pytest.approx([1, 1], abs=1e-3)
    made = job("index", "--output", output)
    assert made.returncode == 0 and "25 images in 1 segments" in made.stdout, made.stdout + made.stderr
    for more in ((), ("--set", "exact=true")):
        done = job(*asking, "--set", "key=0/astronaut", *more)
        assert "by the index of 25 images\n" in done.stderr
        assert [row[1:3] for row in rows_of(done)] == [row[1:3] for row in plain]
    found = rows_of(job(*asking, "--set", f"image={image}"))
    assert {row[1] for row in found[:2]} == {row[1] for row in of_file[:2]}
    table, = output.glob("labels/*/a.tar.parquet")
    table.write_bytes(table.read_bytes())  # another version by its time: the index does not know it
    done = job(*asking, "--set", "key=0/astronaut", "--pictures", tmp_path / "page.html")
    assert "5 more, which it does not know" in done.stderr and [row[1:3] for row in rows_of(done)] == [
        row[1:3] for row in plain]
    page = (tmp_path / "page.html").read_text()
    assert len(re.findall("data:image/jpeg", page)) == 4 and "astronaut" in page and "<script" not in page
    for setting, reason in (("image=absent.png", "--set image absent.png"), (f"image={Path(__file__)}", "not_an_image"),
                            ("number=x", "takes a whole number"), ("colour=x", "no such setting")):
        done = job("query", "--output", output, "neighbours", "--set", "key=0/astronaut", "--set", setting)
        assert done.returncode == 2 and reason in done.stderr and "Traceback" not in done.stderr, done.stderr
