"""The store of benchmark part `plan`: it answers as S3 does, from arithmetic, for any number of shards.

Not a real server: SeaweedFS took 400 to 600 puts a second on two busy cores, so the 2 million objects of 10^6 shards
take an hour. Its bulk way (`weed shell`, `fs.meta.load`) takes 2,100 to 2,500 a second, which is 14 minutes, needs its
internal format, and lost the last 1 of 20,000 and the last 5 of 100,000 objects.
"""

from __future__ import annotations

import functools
import io
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.model import weights
from pipeline.tables.ledger_rows import SHARDS

NEW = 100  # one shard in so many is new
LEDGER_ROWS = 10**4  # of one file of the ledger
PAGE = 1000  # objects, as S3 has it
DAYS = 12  # folders of the input
MODEL_ID = weights.identify("seed:0").model_id
_LABELS, _LEDGER = f"out/labels/model={MODEL_ID}/", "out/shards/"


def list_objects(number: int, prefix: str, start: int) -> list[tuple[str, int, str]]:
    """A page of a listing: key, size and etag of the objects under `prefix`, from the object `start` on, in order."""
    if prefix == _LEDGER:
        page = range(start, min(start + PAGE, -(-number // LEDGER_ROWS)))
        return [(f"{_LEDGER}part-{index:05}.parquet", 10**6, f"{index:032x}") for index in page]
    root = next((root for root in ("in/", _LABELS) if prefix.startswith(root)), None)
    if root is None:
        return []
    num_objects = number if root == "in/" else number - number // NEW
    wanted = [day for day in range(DAYS) if _folder(day).startswith(prefix.removeprefix(root))]
    page_of: list[int] = []
    for day in wanted:
        of_day = range(day, num_objects, DAYS)
        page_of += of_day[start:start + PAGE - len(page_of)]
        start = max(0, start - len(of_day))
    if root == "in/":
        return [(f"in/{_name(index)}", *_source(index)) for index in page_of]
    return [(f"{_LABELS}{_name(index)}.parquet", *_table(index)) for index in page_of]


def _folder(day: int) -> str:
    return f"dt=2026-11-{day + 1:02}/"


def _name(index: int) -> str:
    return f"{_folder(index % DAYS)}photos-{index:08}.tar"


def _source(index: int) -> tuple[int, str]:
    """Size and etag of a shard."""
    return 10**8 + index, f"{index * 0x9E3779B97F4A7C15 % 2**128:032x}"


def _table(index: int) -> tuple[int, str]:
    """Size and etag of the table of a shard."""
    return 10**6 + index, f"{index * 0xC2B2AE3D27D4EB4F % 2**128:032x}"


@functools.cache
def write_ledger(number: int, part: int) -> bytes:
    """A file of the ledger: the rows of its shards, which the model has labelled."""
    indices = range(part * LEDGER_ROWS, min((part + 1) * LEDGER_ROWS, number - number // NEW))
    sources, tables = [_source(index) for index in indices], [_table(index) for index in indices]
    values = {"model_id": [MODEL_ID] * len(indices), "status": ["committed"] * len(indices),
              "shard": [_name(index) for index in indices], "file": [_name(index) + ".parquet" for index in indices],
              "source_size": [size for size, _ in sources], "source_etag": [etag for _, etag in sources],
              "file_size": [size for size, _ in tables], "file_etag": [etag for _, etag in tables]}
    columns = [pa.array(values.get(field.name, [None] * len(indices)), field.type) for field in SHARDS]
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=SHARDS), buffer, compression="zstd")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """The part of S3's REST API that planning uses: ListObjectsV2, the ledger, the mark of the output; else 404."""

    protocol_version = "HTTP/1.1"
    number = 0  # of shards
    delay_s = 0.0  # before each answer

    def do_GET(self) -> None:
        time.sleep(self.delay_s)
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if "list-type" in query:
            page, start = self._level if "delimiter" in query else self._page, int(query.get("continuation-token", 0))
            self._answer(200, page(query.get("prefix", ""), start))
        elif url.path.startswith(f"/bucket/{_LEDGER}part-"):
            self._answer(200, write_ledger(self.number, int(url.path[-len("00000.parquet"):-len(".parquet")])))
        elif url.path == "/bucket/out/input.json":
            self._answer(200, b'{"input": "s3://bucket/in"}')
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>There is no such key.</Message></Error>")

    do_HEAD = do_GET

    def _page(self, prefix: str, start: int) -> bytes:
        page = list_objects(self.number, prefix, start)
        contents = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2026-11-20T10:00:00.000Z</LastModified>"
            f"<ETag>&quot;{etag}&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for key, size, etag in page)
        more = "<IsTruncated>false</IsTruncated>"
        if list_objects(self.number, prefix, start + PAGE):
            token = f"<NextContinuationToken>{start + PAGE}</NextContinuationToken>"
            more = f"<IsTruncated>true</IsTruncated>{token}"
        return ('<?xml version="1.0" encoding="UTF-8"?>'
                '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                f"<Name>bucket</Name><Prefix>{prefix}</Prefix><KeyCount>{len(page)}</KeyCount>"
                f"<MaxKeys>{PAGE}</MaxKeys>{contents}{more}</ListBucketResult>").encode()

    def _level(self, prefix: str, _: int) -> bytes:
        """What lies directly under a prefix: folders alone."""
        days = range(DAYS) if prefix in ("in/", _LABELS) else ()
        folders = "".join(f"<CommonPrefixes><Prefix>{prefix}{_folder(day)}</Prefix></CommonPrefixes>" for day in days)
        return ('<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                f"<Name>bucket</Name><Prefix>{prefix}</Prefix><MaxKeys>{PAGE}</MaxKeys><IsTruncated>false</IsTruncated>"
                f"{folders}</ListBucketResult>").encode()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{len(body):032x}"')
        self.send_header("Last-Modified", "Fri, 20 Nov 2026 10:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    Handler.number, Handler.delay_s = int(sys.argv[1]), float(sys.argv[2])
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
