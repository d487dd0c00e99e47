"""The report of real runs, as Chromium shows it; what it says of hostile names; and its parts."""

import base64
import io
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

from pipeline.report import charts, render
from pipeline.report.findings import INTERVALS, Timeline
from pipeline.report.gallery import SHOWN, Gallery
from pipeline.tables.counts import Counts
from tests.support.browser import needs_chromium, see
from tests.support.jobs import SEED, job
from tests.support.tars import make_tar

# Without a dot, which would end the key.
SCRIPT = "<script>document['title']='owned'</script><img src=x onerror=document['title']='owned'>"


@pytest.fixture(scope="module")
def reports(tmp_path_factory, photographs, undisturbed):
    """The report of an output's first run; and of a later one, with hostile names, a cut image and a failed shard."""
    folder, output = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    hostile = [(f"{SCRIPT}\u202e{name}", content) for name, content in photographs]
    hostile.append((f"{SCRIPT}cut.jpg", photographs[0][1][:5000]))
    (folder / f"{SCRIPT.replace('/', '|')}.tar").write_bytes(make_tar(*hostile))
    (folder / "new.tar").write_bytes(make_tar(*photographs[:4], ("y" * 300 + ".jpg", photographs[-1][1])))
    (folder / "bad.tar").write_bytes(make_tar(*photographs)[:200_000])
    first = min((undisturbed / "reports").iterdir())
    (output / "runs").mkdir()
    shutil.copy(undisturbed / "runs" / f"{first.stem}.parquet", output / "runs")
    done = job("label", "--input", folder, "--output", output, *SEED)
    assert done.returncode == 1, done.stdout + done.stderr
    page, = (output / "reports").iterdir()
    assert f"report    {page}\n" in done.stdout
    return first, page


@pytest.mark.slow
def test_the_page_holds_what_it_should(reports):
    first, second = (page.read_text(encoding="utf-8") for page in reports)
    for page, images, gallery in ((first, "25", 5), (second, "15", 9)):
        assert f"<dd>{images}</dd>" in page and "<script" not in page and "<img src" not in page
        pictures = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r'base64,([^"]+)"', page)]
        assert len(pictures) > 2 * gallery and {picture.size for picture in pictures} == {(150, 150)}
        assert len(page) < 3_000_000
    assert str(escape(SCRIPT)) in second and second.count('<th scope="row">truncated</th>') == 1
    assert "bad.tar" in second and "it ends inside" in second and "--batch-size" in second
    assert f'href="{reports[0].name}"' in second and "Labels whose share changed most" in second
    assert "There is none that labelled anything." in first


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (1280, True)])
def test_chromium_shows_it_in_peace(reports, tmp_path, width, dark):
    for number, page in enumerate(reports):
        seen = see(page, tmp_path / str(number), "document.title", "document.documentElement.scrollWidth",
                   "getComputedStyle(document.body).backgroundColor",
                   "[...document.images].filter(image => image.naturalWidth == 150).length", width=width, dark=dark)
        title, scroll_width, background, num_images = seen.values
        assert seen.console == [] and seen.violations == []
        assert {url.partition(":")[0] for url in seen.requests} <= {"file", "data"}
        assert sum(url.startswith("file") for url in seen.requests) == 1
        assert title == f"Labelling run {page.stem}" and num_images >= 10
        assert scroll_width <= width
        assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == dark
        with Image.open(io.BytesIO(seen.picture)) as image:
            assert width - 20 < image.width <= width and len(np.unique(np.asarray(image.convert("L")))) > 100


@needs_chromium
def test_a_script_would_be_noticed(reports, tmp_path):
    page = reports[1].read_text(encoding="utf-8").replace(str(escape(SCRIPT)), SCRIPT)
    (tmp_path / "forbidden.html").write_text(page, encoding="utf-8")
    (tmp_path / "run.html").write_text(page.replace("Content-Security-Policy", "x"), encoding="utf-8")
    forbidden, run = (see(tmp_path / f"{name}.html", tmp_path / name, "document.title")
                      for name in ("forbidden", "run"))
    assert run.values == ["owned"] and forbidden.values != ["owned"] and forbidden.console


def test_a_gallery_keeps_the_ends_and_one_of_each_label():
    rng, gallery = np.random.default_rng(0), Gallery()
    probs = rng.permutation(1000) / 1000
    for at, prob in enumerate(probs):
        gallery.add({"label_id": at % 7, "prob": prob, "sha256": str(at)})
        gallery.add({"label_id": at % 7, "prob": prob, "sha256": str(at)})  # the same bytes once more
    assert [one["prob"] for one in gallery.most] == sorted(probs, reverse=True)[:SHOWN]
    assert [one["prob"] for one in gallery.least] == sorted(probs)[:SHOWN]
    best = {label: picture["prob"] for label, picture in gallery.of_label.items()}
    assert best == {label: probs[label::7].max() for label in range(7)}


def test_a_timeline_keeps_the_sum_and_its_size():
    timeline, rng, at = Timeline(), np.random.default_rng(0), 0.0
    for _ in range(2000):
        at += rng.exponential(3) if rng.random() < 0.9 else 0
        timeline.add(at, 10)
    edges, rates = timeline.rates()
    assert len(rates) <= INTERVALS and edges[-1] == pytest.approx(at, abs=1)
    assert sum(rate * width for rate, width in zip(rates, np.diff(edges), strict=True)) == pytest.approx(20_000)
    assert np.median(rates) == pytest.approx(20_000 / at, rel=0.1)


def test_the_marks_of_an_axis_are_round_numbers():
    assert charts.list_marks(100, 8) == [0, 20, 40, 60, 80, 100]
    assert charts.list_marks(18.8, 8) == [0, 2.5, 5, 7.5, 10, 12.5, 15, 17.5]
    assert charts.list_marks(3.4, 8) == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    for end in np.geomspace(1e-6, 1e9, 500):
        assert 3 <= len(charts.list_marks(end, 8)) <= 9 and charts.list_marks(end, 8)[-1] <= end * 1.001


def test_a_plot_is_valid_and_shows_every_value():
    svg = ElementTree.fromstring(charts.draw_confidence([0] * 19 + [5], [1] * 20, "a title"))
    assert svg.get("role") == "img" and svg.get("aria-label") == "a title"
    texts = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"this run", "run before", "0%", "100%", "share of images", "probability of the best label"} <= set(texts)
    edges_s = [3600.0 * hour for hour in range(5)]
    svg = ElementTree.fromstring(charts.draw_throughput(edges_s, [0, 25_000, 30_000, 9], "t"))
    texts = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"30,000", "hours since labelling began"} <= set(texts) and "this run" not in texts
    filled = next(path.get("d") for path in svg if path.get("fill") == "var(--accent)")
    assert filled.count("V") == 5


def test_drift_is_of_shares():
    before, now = Counts(10), Counts(20)
    before.labels.update({1: 5, 2: 5})
    now.labels.update({1: 5, 3: 15})
    assert render.measure_drift(before, now) == [(3, 0, 0.75), (2, 0.5, 0), (1, 0.5, 0.25)]
    assert [render.format_duration(seconds) for seconds in (0.04, 59.94, 60, 3599, 7322)] == [
        "0.0 s", "59.9 s", "1 min 0 s", "59 min 59 s", "2 h 2 min"]
