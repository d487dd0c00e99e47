"""Input made to harm: each ends in a row with a reason, a failed shard with one, or an error of one sentence."""

import gzip
import html
import io
import os
import re
import subprocess
import sys
import tarfile
import time
import urllib.request
import zlib
from pathlib import Path
from urllib.parse import urljoin

import numpy as np
import PIL
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.config import Config
from pipeline.images.decode import REASONS, decode
from pipeline.inputs.read import Inputs
from pipeline.stages.batch import samples_of, segments_of
from pipeline.stages.read import Reader
from pipeline.tables.layout import place_of
from tests.support.jobs import ROOT, SEED, digest, job
from tests.support.tars import make_tar

NAMES = ["ü/ключ", "it's", 'say "x"', "100%", "50%41", "a#b", "a+b", "a\nb", "k" * 1000, "<script>", "..", "*", "\\",
         "x;DROP"]


def png(width: int, height: int, level: int = 0, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), (level,) * len(mode)).save(file, "PNG")
    return file.getvalue()


SMALL = png(40, 30)


def read(tmp_path: Path, data: bytes) -> tuple[list[dict[str, object]], str | None]:
    """The rows and the failure of a shard, by the reader with the defaults of the job."""
    (tmp_path / "a.tar").write_bytes(data)
    limits = Config(input="i", output="o")
    reader = Reader(96, 96, 2, limits.max_image_pixels, Inputs.of(limits))
    batches = list(reader(pa.table({"number": [0], "shard": ["a.tar"], "uri": [str(tmp_path / "a.tar")]})))
    found = [row for batch in batches for row in samples_of(batch).to_pylist()]
    assert [row["index"] for row in found] == list(range(len(found)))
    last = segments_of(batches[-1])[-1]
    assert last["end"] == (last["failure"] is None)
    return found, last["failure"]


def test_100000_members(tmp_path):
    members = [(f"{n}.{'png' if n % 1000 == 0 else 'txt'}", SMALL if n % 1000 == 0 else b"") for n in range(100_000)]
    rows, failure = read(tmp_path, make_tar(*members))
    assert len(rows) == 100 and failure is None


def test_members_that_are_no_files_or_lead_out_of_the_shard(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind in (("link.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE), ("dev.jpg", tarfile.CHRTYPE),
                           ("pipe.jpg", tarfile.FIFOTYPE), ("dir.jpg", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        for name in ("../up.png", "/abs.png", "a/../../b.png", "inner.tar"):
            info = tarfile.TarInfo(name)
            content = make_tar(("nested.png", SMALL)) if name.endswith("tar") else SMALL
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    rows, failure = read(tmp_path, buffer.getvalue())
    assert failure is None and [(row["key"], row["error"]) for row in rows] == [
        ("link", "not_a_file"), ("hard", "not_a_file"), ("dev", "not_a_file"), ("pipe", "not_a_file"), ("../up", None),
        ("/abs", None), ("a/../../b", None)]
    assert os.listdir(tmp_path) == ["a.tar"]


def test_a_header_of_gigabytes_is_not_read(tmp_path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**33
    _, failure = read(tmp_path, gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(2**20)))
    assert failure is not None and "a header of 8,589,934,592 bytes" in failure


@pytest.mark.parametrize("key", [name for name in NAMES if name != ".."])
def test_odd_keys_and_double_ones(tmp_path, key):
    rows, failure = read(tmp_path, make_tar((f"x{key}/a.png", SMALL), (f"x{key}y.png", SMALL), (f"x{key}y.png", SMALL),
                                            ("z.png", SMALL), (f"x{key}y.png", SMALL)))
    assert failure is None and [row["key"] for row in rows][1::2] == [f"x{key}y"] * 2 and len(rows) == 4


def bomb(width: int, height: int) -> bytes:
    chunk = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return (b"\x89PNG\r\n\x1a\n\0\0\0\r" + chunk + zlib.crc32(chunk).to_bytes(4, "big")
            + SMALL[33:])


def scans(number: int) -> bytes:
    """A progressive JPEG of 16 megapixels whose last scan is repeated."""
    file = io.BytesIO()
    Image.new("L", (4000, 4000)).save(file, "JPEG", progressive=True)
    encoded = file.getvalue()
    last = encoded.rindex(b"\xff\xda")
    return encoded[:last] + encoded[last:-2] * number + b"\xff\xd9"


def test_bombs_are_rows_with_a_reason(tmp_path):
    began = time.monotonic()
    rows, failure = read(tmp_path, make_tar(("a.png", bomb(100_000, 100_000)), ("b.png", SMALL), ("c.jpg", scans(2000)),
                                            ("d.png", bytes(65 * 2**20)), ("e.jpg", scans(1))))
    assert failure is None and [row["error"] for row in rows] == ["too_large", None, "too_large", "too_large", None]
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_the_largest_images_fit_two_gigabytes(tmp_path):
    """The defaults, four threads, two shards at once: RGBA of 100 megapixels, and progressive JPEGs of it."""
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(np.tile(noise, (10, 10, 1))).save(jpeg, "JPEG", progressive=True, quality=30)
    large = [(f"{n}.png", png(10_000, 10_000, 9, "RGBA")) for n in (1, 2)]
    large += [(f"{n}.jpg", jpeg.getvalue()) for n in (3, 4)]
    for name in "ab":
        (tmp_path / f"{name}.tar").write_bytes(make_tar(*large))
    program = f"""
import re, threading, pyarrow as pa
from pipeline.stages.batch import samples_of
from pipeline.config import Config
from pipeline.inputs.read import Inputs
from pipeline.stages.read import Reader
limits = Config(input="i", output="o")
reader = Reader(96, 96, 4, limits.max_image_pixels, Inputs.of(limits), False)
def read(name):
    batch, = reader(pa.table({{"number": [0], "shard": [name], "uri": [{str(tmp_path)!r} + "/" + name]}}))
    assert samples_of(batch)["error"].null_count == 4, samples_of(batch)["error"]
threads = [threading.Thread(target=read, args=(name,)) for name in ("a.tar", "b.tar")]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 2 * 2**30, done.stdout


@pytest.mark.parametrize("shard", ["../x.tar", "a/../../x.tar", "/x.tar", "a//x.tar", "./x.tar"])
def test_a_shard_named_to_lead_out_of_the_output_is_refused(shard):
    with pytest.raises(OSError, match="lead out of"):
        place_of(shard)


@pytest.mark.slow
def test_shards_and_keys_of_odd_names_through_the_job(tmp_path):
    folder = tmp_path / "it's 100% \"in\" #1"
    for number, name in enumerate([*(name for name in NAMES if name not in ("..", "k" * 1000)), "a[b]",
                                   "a?versionId=1"]):
        path = folder / f"{name}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        keys = [NAMES[:-4][(number + step) % len(NAMES[:-4])] for step in (0, 4, 8)]
        path.write_bytes(make_tar(*((f"{key}/{number}{key}.png", png(40, 30, number)) for key in keys)))
    (folder / ("n" * 250 + ".tar")).write_bytes(make_tar(("a.png", SMALL)))
    done = job("label", "--input", folder, "--output", tmp_path / "out", *SEED, "--batch-size", 4)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "14 labelled, 0 skipped (done before), 1 failed" in done.stdout
    assert "File name too long" in done.stdout
    (folder / ("n" * 250 + ".tar")).unlink()
    digest(folder, tmp_path / "out")


@pytest.mark.slow
def test_pillows_own_corpus():
    """Every file under Tests/images of Pillow's source, with files that crashed a decoder and finds of fuzzers."""
    files: list[tuple[str, bytes]] = []
    with tarfile.open(fileobj=io.BytesIO(download_pillow_source())) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None and "/Tests/images/" in member.name:
                files.append((member.name, content.read()))
    slot = np.empty((299, 299, 3), np.uint8)
    reasons = []
    for name, encoded in files:
        begun = time.monotonic()
        reasons.append(decode(encoded, slot, max_pixels=100_000_000, max_bytes=2**26).error)
        assert time.monotonic() - begun < 10, name
    assert len(files) > 900 and {*reasons} - {None} <= {*REASONS} and reasons.count(None) > 300


def download_pillow_source() -> bytes:
    """The source archive of the installed Pillow, from the package index that pip uses. Skips the test without it."""
    usage = subprocess.run([sys.executable, "-m", "pip", "download", "--help"], capture_output=True, text=True,
                           check=True).stdout
    index = re.search(r"--index-url <url>.*?\(default\s+(\S+?)\)", usage, re.DOTALL)
    assert index is not None, usage
    try:
        with urllib.request.urlopen(f"{index[1].rstrip('/')}/pillow/", timeout=20) as page:
            links = re.findall(r'href="([^"#]+)', page.read().decode())
            link = next(html.unescape(link) for link in links if link.endswith(f"pillow-{PIL.__version__}.tar.gz"))
            address = urljoin(page.url, html.unescape(link))
        with urllib.request.urlopen(address, timeout=60) as file:
            data: bytes = file.read()
    except (OSError, StopIteration) as error:
        pytest.skip(f"Pillow's source cannot be had: {error}")
    return data
