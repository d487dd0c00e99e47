"""Stores beside the local disk and S3: one in memory, and web servers on 127.0.0.1, with and without parts of files."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.formats.loose import read_files
from pipeline.inputs.find import find_shards
from pipeline.inputs.read import Inputs
from pipeline.run.night import find_input
from pipeline.store import stream
from pipeline.store.storage import stat
from tests.stages.test_read import png
from tests.support.tars import make_tar

LARGE = os.urandom(stream.BLOCK_BYTES + 1000)


class Plain(http.server.SimpleHTTPRequestHandler):
    """Python's own: no parts of files, a time of change but no etag."""

    def log_message(self, *_: object) -> None:
        pass

    def copyfile(self, source, outputfile):
        with contextlib.suppress(ConnectionError):
            super().copyfile(source, outputfile)


class Ranges(Plain):
    """One that gives parts of files, as nearly all do."""

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not asked:
            return super().do_GET()
        with open(self.translate_path(self.path), "rb") as file:
            data = file.read()
        start, stop = int(asked[1]), int(asked[2]) + 1
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data[start:stop])))
        self.end_headers()
        self.wfile.write(data[start:stop])


@pytest.fixture(params=[Plain, Ranges])
def web(request, tmp_path, monkeypatch):
    """A folder, and the URI of a server of its files."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = functools.partial(request.param, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}", request.param is Ranges
    server.shutdown()
    server.server_close()
    thread.join()


def test_files_without_ranges_of_their_own_are_read_whole_and_in_any_thread():
    fsspec.filesystem("memory").pipe_file("/store/a.bin", LARGE)
    with stream.open_stream("memory://store/a.bin") as (file, _):
        assert file.read() == LARGE

    def part(start: int) -> bool:
        with stream.open_random("memory://store/a.bin") as (file, _):
            file.seek(start)
            return file.read(5000) == LARGE[start:start + 5000]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(part, range(0, 2**22, 2**16)))
    fsspec.filesystem("memory").rm("/store", recursive=True)
    with pytest.raises(UserError, match="is in the memory of this process"):
        Config(input="memory://store", output="out")


def test_one_tar_of_a_web_server(web):
    folder, uri, ranges = web
    (folder / "a.tar").write_bytes(make_tar(("1.png", png(1)), ("2.png", LARGE)))
    listed, = find_shards(uri + "/a.tar").shards.to_pylist()
    assert listed["path"] == "a.tar"
    assert listed["size"] == (folder / "a.tar").stat().st_size == stat(uri + "/a.tar").size
    reading = Inputs(None, None, 2**26, None).open(uri + "/a.tar")
    if ranges:
        with reading as (samples, version):
            assert [len(sample.encoded) for sample in samples] == [len(png(1)), len(LARGE)]
            assert version.etag == listed["etag"]
    else:
        reason = "gives no parts of a file, so none of over 8 MiB is read"
        with pytest.raises(OSError, match=reason), reading as (samples, _):
            list(samples)


def test_a_manifest_of_a_web_server(web):
    folder, uri, _ = web
    (folder / "1.png").write_bytes(png(1))
    (folder / "list.csv").write_text("uri\n1.png\nabsent.png\n")
    row, = find_shards(uri + "/list.csv").shards.to_pylist()
    samples = read_files(uri, row["members"], 2**20)
    assert [(sample.encoded, sample.error) for sample in samples] == [(png(1), None), (b"", "not_a_file")]


def test_a_folder_of_a_web_server_is_refused_in_a_sentence(web):
    folder, uri, _ = web
    (folder / "photos").mkdir()
    (folder / "readme.md").write_text("x")
    for place in ("/photos", "/readme.md"):
        config = Config(input=uri + place, output=str(folder / "out"), weights="seed:0")
        with pytest.raises(UserError, match=r"--input http.* a web server does not list its files; name one"):
            find_input(config)
