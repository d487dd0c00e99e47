"""A place as a user typed it -> the one spelling that it has in the job, or what is wrong with it.

In: a local path or a URI. Out: text. Nothing is asked of a store or a disk.
Not here: which flag it was given for (`config.check_uri`).
"""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

# Schemes that people mean when they type one of these names and a colon. `data:`, `git:`, `zip:` and the like, which fsspec knows
# too, may begin the name of a folder.
REMOTE = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "http", "https", "ftp", "sftp", "ssh", "hdfs", "webhdfs", "hf", "memory")
_FIRST_SCHEME = {"s3a": "s3", "gcs": "gs", "abfss": "abfs", "az": "abfs"}
_MISTYPED = re.compile(rf"({'|'.join((*REMOTE, 'file'))})(:/?(?!/)|//|:///+|://(?=$)|:\\+)(.*)", re.IGNORECASE | re.DOTALL)
_FILE = re.compile(r"file:(?://localhost(?=/)|//(?=/)|(?=/(?!/)))", re.IGNORECASE)  # before an absolute path
# Of a signed URL, or one with a token.
_SECRET_PARAMETER = re.compile(r"[?&][^=&]*(sig|token|key|secret|password|credential)[^=&]*=", re.IGNORECASE)


def canonical_uri(uri: str) -> str:
    """One spelling for one place: local paths absolute, no `file:`, the scheme in small letters, no trailing slash.

    Bytes of a path that are not UTF-8 become `\\xNN`, as listings name them; `storage.locate` finds the file all the same.
    """
    scheme, mark, rest = uri.partition("://")
    if mark and scheme.lower() != "file":
        return scheme.lower() + mark + rest.rstrip("/")
    path = os.path.realpath(os.path.expanduser(_FILE.sub("", uri, count=1)))
    return printable("/" + path.lstrip("/"))  # two slashes at the start stay two for Python, and name the same place


def is_same_store(uri: str, other: str) -> bool:
    """Whether two canonical URIs are of one kind of store, as `s3a:` and `s3:` are."""
    return _split(uri)[0] == _split(other)[0]


def is_same_place(uri: str, other: str) -> bool:
    """Whether two canonical URIs name one place."""
    return _split(uri) == _split(other)


def is_within(uri: str, folder: str) -> bool:
    """Whether a canonical URI names a place below another."""
    return is_same_store(uri, folder) and _split(uri)[1].startswith(_split(folder)[1].rstrip("/") + "/")


def _split(uri: str) -> tuple[str, str]:
    """The store's first scheme, none of a local path; and the path."""
    scheme, mark, path = uri.partition("://")
    return (_FIRST_SCHEME.get(scheme, scheme), path) if mark else ("", uri)


def printable(name: str) -> str:
    """A name as text that can be written down: bytes that are not UTF-8 become `\\xNN`."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # halves of surrogate pairs, which no byte stands for
        return name.encode("utf-8", "backslashreplace").decode()


def find_fault(uri: str) -> str | None:
    """What is wrong with a URI, in words that follow the flag: `is empty.`; None if nothing is.

    Refused is what would be taken for a folder below the current one, and was meant for a place in a store.
    """
    if not uri.strip():
        return "is empty."
    mistyped = _MISTYPED.fullmatch(uri)
    if mistyped and mistyped[1].lower() == "memory" and mistyped[2] == ":///":
        mistyped = None
    scheme, rest = (mistyped[1].lower(), mistyped[3].lstrip("/\\")) if mistyped else ("", "")
    meant = f"{scheme}://{rest}" if mistyped else uri
    place = urlsplit(meant) if "://" in meant else None
    if place and ("@" in place.netloc or not place.netloc.partition(":")[2].isdigit() and ":" in place.netloc
                  or _SECRET_PARAMETER.search("?" + place.query)):
        return ("holds credentials; give them through the environment (AWS_ACCESS_KEY_ID and so on), where they are not written "
                "to logs and tables.")
    if _FILE.match(uri):
        return None
    if uri.lower().startswith("file:"):
        return f"is {uri!r}, which names no absolute path; write file:///{uri[5:].lstrip('/') or 'path'}, or the path alone."
    if not mistyped:
        return None
    return f"is {uri!r}, which is no URI; write {meant if rest else scheme + '://bucket/path'}, or for a local path of this name ./{uri}."
