"""The objects of an S3 bucket, page by page.

In: a bucket and a key. Out: pages of entries. A page comes a round trip after the page before it, so large folders are
listed side by side. botocore signs the requests and explains the errors, but its parser takes 45 ms for a page of 1,000
objects; the parser here takes 8.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from pipeline.store.local_files import Entry
from pipeline.store.retry import with_retries
from pipeline.store.s3.connect import s3_filesystem
from pipeline.store.s3.places import VARIABLE

AT_ONCE = 8  # requests; botocore keeps ten connections
LARGE = 250  # objects of a folder in the first page, on average, with which its folders are listed side by side
_EPOCH = "1970-01-01T00:00:00Z"


class _Request(NamedTuple):
    """A page of a listing. `token`: of the page before; empty for the first. `level`: only what lies directly here."""

    prefix: str
    token: str = ""
    level: bool = False


def iterate_pages(bucket: str, key: str) -> Iterator[list[Entry]]:
    """The entries of the objects under a key, up to 1,000 a page, without the marks of folders (`name/`).

    The pages of a small folder come in the store's order, those of a large one as they arrive.
    """
    fs = connect(bucket, os.environ.get(VARIABLE))
    left = deque([_Request(key.rstrip("/") + "/" if key else "")])
    running: dict[Future[Any], _Request] = {}
    arrived: deque[dict[str, Any]] = deque()
    with ThreadPoolExecutor(AT_ONCE, "list") as pool:
        try:
            while left or running or arrived:
                while left and len(running) + len(arrived) < AT_ONCE:
                    request = left.popleft()
                    running[pool.submit(_fetch, fs, bucket, request)] = request
                if arrived:  # the next requests are under way while the caller has this page
                    page = arrived.popleft()
                    yield [(f"{bucket}/{name}", *rest) for name, *rest in page["Columns"] if not name.endswith("/")]
                for future in wait(running, 0 if arrived else None, FIRST_COMPLETED).done:
                    request, page = running.pop(future), future.result()
                    if _has_large_folders(page, request):
                        left.append(_Request(request.prefix, level=True))
                        continue
                    left.extend(_Request(folder["Prefix"]) for folder in page.get("CommonPrefixes", ()))
                    if page.get("IsTruncated"):
                        left.appendleft(request._replace(token=page["NextContinuationToken"]))
                    arrived.append(page)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _fetch(fs: Any, bucket: str, request: _Request) -> dict[str, Any]:
    options = {"Bucket": bucket, "Prefix": request.prefix, **fs.req_kw}
    options |= {"ContinuationToken": request.token} if request.token else {}
    options |= {"Delimiter": "/"} if request.level else {}
    page: dict[str, Any] = with_retries(functools.partial(fs.call_s3, "list_objects_v2", **options))
    return page


def _has_large_folders(page: dict[str, Any], request: _Request) -> bool:
    """Whether the first page of a folder is one of many, and shows folders that are large themselves."""
    if request.level or request.token or not page.get("IsTruncated"):
        return False
    start = len(request.prefix)
    folders = {name[:at] for name, *_ in page["Columns"] if (at := name.find("/", start)) >= 0}
    return 0 < len(folders) <= len(page["Columns"]) / LARGE


@functools.cache
def connect(bucket: str, places: str | None) -> Any:
    """An S3 filesystem of its own, whose listings have `Columns`: key, size, etag and last change of each object.

    Args:
        places: the value of LABEL_S3; another value needs another filesystem.
    """
    fs = s3_filesystem(bucket, skip_instance_cache=True)
    fs.connect()
    # botocore parses the whole of a reply once more to look for an error in it. A name with a wildcard for the service
    # comes before that.
    fs.s3.meta.events.register_first("before-parse.*.ListObjectsV2", _take_objects)
    return fs


def _take_objects(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Take the objects out of the XML of a listing, so that botocore parses only the rest."""
    if response_dict["status_code"] >= 300:
        return
    root = ElementTree.fromstring(response_dict["body"])
    space = root.tag.partition("}")[0] + "}" if "}" in root.tag else ""
    decode = unquote_plus if root.findtext(space + "EncodingType") == "url" else str
    key, size, etag, changed, contents = (space + name for name in ("Key", "Size", "ETag", "LastModified", "Contents"))
    customized_response_dict["Columns"] = [
        (decode(child.findtext(key) or ""), int(child.findtext(size) or 0), (child.findtext(etag) or "").strip('"'),
         datetime.fromisoformat(child.findtext(changed) or _EPOCH).timestamp())
        for child in root.iterfind(contents)]
    root[:] = [child for child in root if child.tag != contents]
    response_dict["body"] = ElementTree.tostring(root)
