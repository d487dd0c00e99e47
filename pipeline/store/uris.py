"""A place as a user typed it -> its one spelling in the job, or what is wrong with it.

In: a local path or a URI. Out: text. No store is asked. Not here: the flag that the place was given for.
"""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

# A name of these before a colon is meant as a scheme. fsspec also knows `data:`, `git:`, `zip:` and others, which may
# begin the name of a folder.
REMOTE = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "http", "https", "ftp", "sftp", "ssh", "hdfs",
          "webhdfs", "hf", "memory")
_FIRST_SCHEME = {"s3a": "s3", "gcs": "gs", "abfss": "abfs", "az": "abfs"}
_MISTYPED = re.compile(rf"({'|'.join((*REMOTE, 'file'))})(:/?(?!/)|//|:///+|://(?=$)|:\\+)(.*)",
                       re.IGNORECASE | re.DOTALL)
_FILE = re.compile(r"file:(?://localhost(?=/)|//(?=/)|(?=/(?!/)))", re.IGNORECASE)  # stands before an absolute path
_AZURE_ACCOUNT = re.compile(r"[^:@]+@[a-z0-9]+\.(dfs|blob)\.core\.windows\.net")  # the container stands before the @
# A parameter of a signed URL, or a token.
_SECRET_PARAMETER = re.compile(r"[?&][^=&]*(sig|token|key|secret|password|credential)[^=&]*=", re.IGNORECASE)


def canonical_uri(uri: str) -> str:
    """The one spelling of a place: an absolute path without `file:`, or a URI with its scheme in small letters.

    There is no trailing slash. Bytes of a path that are not UTF-8 become `\\xNN`, as in listings; `storage.locate`
    finds the file by that name too.
    """
    scheme, mark, rest = uri.partition("://")
    if mark and scheme.lower() != "file":
        return scheme.lower() + mark + rest.rstrip("/")
    path = os.path.realpath(os.path.expanduser(_FILE.sub("", uri, count=1)))
    return printable("/" + path.lstrip("/"))  # `realpath` keeps two slashes at the start; they name the same place


def is_same_store(uri: str, other: str) -> bool:
    """Whether two canonical URIs are of the same kind of store. `s3a:` and `s3:` are."""
    return _split(uri)[0] == _split(other)[0]


def is_same_place(uri: str, other: str) -> bool:
    """Whether two canonical URIs name the same place."""
    return _split(uri) == _split(other)


def is_within(uri: str, folder: str) -> bool:
    """Whether a canonical URI names a place below the folder."""
    return is_same_store(uri, folder) and _split(uri)[1].startswith(_split(folder)[1].rstrip("/") + "/")


def _split(uri: str) -> tuple[str, str]:
    """The scheme and the path. Schemes of the same store become one; a local path has the scheme ""."""
    scheme, mark, path = uri.partition("://")
    return (_FIRST_SCHEME.get(scheme, scheme), path) if mark else ("", uri)


def without_query(uri: str) -> str:
    """The URI of a file of a web server without its parameters; another URI as it is."""
    return uri.partition("?")[0] if uri.startswith(("http://", "https://")) else uri


def printable(name: str) -> str:
    """A name as valid text: bytes that are not UTF-8 become `\\xNN`."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # it has half a surrogate pair, which stands for no byte
        return name.encode("utf-8", "backslashreplace").decode()


def find_fault(uri: str) -> str | None:
    """What is wrong with a URI, as the end of a sentence such as `is empty.`; None if nothing is wrong.

    A mistyped URI is refused, because it would name a folder below the current folder. So is a URI with credentials.
    """
    if not uri.strip():
        return "is empty."
    mistyped = _MISTYPED.fullmatch(uri)
    if mistyped and mistyped[1].lower() == "memory" and mistyped[2] == ":///":
        mistyped = None
    scheme, rest = (mistyped[1].lower(), mistyped[3].lstrip("/\\")) if mistyped else ("", "")
    meant = f"{scheme}://{rest}" if mistyped else uri
    place = urlsplit(meant) if "://" in meant else None
    port = place.netloc.partition(":")[2] if place and ":" in place.netloc else "0"
    if place and (("@" in place.netloc and not _AZURE_ACCOUNT.fullmatch(place.netloc)) or not port.isdigit()
                  or _SECRET_PARAMETER.search("?" + place.query)):
        return ("holds credentials; give them through the environment (AWS_ACCESS_KEY_ID and so on), where they are "
                "not written to logs and tables.")
    if _FILE.match(uri):
        return None
    if uri.lower().startswith("file:"):
        path = uri[5:].lstrip("/") or "path"
        return f"is {uri!r}, which names no absolute path; write file:///{path}, or the path alone."
    if not mistyped:
        return None
    example = meant if rest else f"{scheme}://bucket/path"
    return f"is {uri!r}, which is no URI; write {example}, or for a local path of this name ./{uri}."
