"""A manifest -> groups that stand for shards. A manifest is a CSV or Parquet file that lists the URIs of images.

In: the URI of the manifest. Its column `uri` has the URIs of the images; a relative URI starts at the manifest's
folder. Its columns `size` (bytes) and `etag` are optional.
Out: a table of `GROUPS`, in the order of the manifest. So after lines are appended only the last group is labelled
again. Without the columns `size` and `etag` the store is asked for each image, one request each. An image that does not
exist, is a folder or may not be read keeps its row. So does a line without a URI.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import pyarrow as pa

from pipeline.errors import UserError
from pipeline.formats.loose import group_ordered_files
from pipeline.inputs.csv_text import parse_csv
from pipeline.store import storage
from pipeline.store.versions import File
from pipeline.store.listing import FILES
from pipeline.store.local_files import MISSING, REFUSED
from pipeline.store.read_parquet import read_table
from pipeline.store.retry import describe_error
from pipeline.store.uris import canonical_uri, find_fault

REQUESTS_AT_ONCE = 32
COLUMNS = ("uri", "size", "etag")


def read_manifest(uri: str) -> pa.Table:
    """The groups of a manifest, as a table of `GROUPS`.

    Raises:
        UserError: the manifest cannot be understood, has no column `uri`, lists nothing, or holds credentials. The
            sentence names the line and the column.
    """
    data = storage.read_bytes(uri)
    is_parquet = uri.lower().endswith(".parquet")
    columns, lines = _parse_parquet(uri, data) if is_parquet else parse_csv("input", uri, data, COLUMNS)
    if not columns.get("uri"):
        raise UserError(f"--input {uri}: a manifest has a column uri, and a line for each image; this one has "
                        f"{', '.join(columns) or 'nothing'}{' and no line' if 'uri' in columns else ''}.")
    known_schemes = {""}
    uris = [_absolute_uri(uri, line, text, known_schemes) for line, text in zip(lines, columns["uri"], strict=True)]
    if "size" in columns and "etag" in columns:
        files = [File(image, *(_parse_version(uri, line, size, etag) if image else (0, MISSING)))
                 for line, image, size, etag in zip(lines, uris, columns["size"], columns["etag"], strict=True)]
    else:
        files = _ask_store(uri, lines, uris)
    paths, sizes, etags = [file.path for file in files], [file.size for file in files], [file.etag for file in files]
    return group_ordered_files(pa.table([paths, sizes, etags], schema=FILES))


def _parse_parquet(uri: str, data: bytes) -> tuple[dict[str, list[str]], list[int]]:
    """The values of each column as text, and the number of each row, from 1."""
    try:
        table = read_table(data)
    except pa.ArrowInvalid as error:
        reason = describe_error(error, 200)
        raise UserError(f"--input {uri}: not a Parquet file that can be read ({reason}).") from error
    columns = {name: [_to_text(value) for value in table[name].to_pylist()]
               for name in table.column_names if name in COLUMNS}
    return columns, list(range(1, len(table) + 1))


def _to_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return "" if value is None else str(value).strip()


def _absolute_uri(manifest: str, line: int, uri: str, known_schemes: set[str]) -> str:
    """The URI of a line; empty if the line has none. Schemes that fsspec knows are added to `known_schemes`."""
    if not uri:
        return ""
    if "\0" in uri:
        raise UserError(f"--input {manifest}: line {line}, column uri: there is a zero byte in it.")
    if fault := find_fault(uri):
        raise UserError(f"--input {manifest}: line {line}, column uri: it {fault}")
    scheme = uri.partition("://")[0].lower() if "://" in uri else ""
    if scheme not in known_schemes:
        try:
            fsspec.get_filesystem_class(scheme)
        except (ValueError, ImportError) as error:
            raise UserError(f"--input {manifest}: line {line}, column uri: {uri}: {describe_error(error)}.") from error
        known_schemes.add(scheme)
    if scheme == "file" or uri.lower().startswith("file:/"):
        return canonical_uri(uri)
    if scheme:
        return scheme + uri[len(scheme):]
    return uri if uri.startswith("/") else storage.join(manifest.rpartition("/")[0], uri)


def _parse_version(manifest: str, line: int, size: str, etag: str) -> tuple[int, str]:
    """The size in bytes and the etag of a line. Some tools leave quotes around an etag; they are removed."""
    advice = "give size and etag of every image, or leave a column out, and each is asked for"
    try:
        num_bytes = int(float(size)) if size.endswith(".0") else int(size)
    except ValueError:
        num_bytes = -1
    if num_bytes < 0:
        raise UserError(f"--input {manifest}: line {line}, column size: {size!r} is no number of bytes; {advice}.")
    etag = etag.removeprefix("W/").strip("\"'")
    if not etag:
        raise UserError(f"--input {manifest}: line {line}, column etag: it is empty; {advice}.")
    return num_bytes, etag


def _ask_store(manifest: str, lines: list[int], uris: list[str]) -> list[File]:
    """The files with the sizes and etags that the store has now."""
    refusals: list[PermissionError] = []

    def ask(line_and_uri: tuple[int, str]) -> File:
        line, uri = line_and_uri
        try:
            file = storage.stat(uri) if uri else None
            return File(uri, 0, MISSING) if file is None else File(uri, file.size, file.etag)
        except PermissionError as error:
            refusals.append(error)
            return File(uri, 0, REFUSED)
        except Exception as error:  # each store has its own exceptions
            if storage.is_no_file(error):
                return File(uri, 0, MISSING)
            reason = describe_error(error, 300)
            raise UserError(f"--input {manifest}: line {line}, column uri: {uri}: {reason}.") from error

    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        files = list(pool.map(ask, zip(lines, uris, strict=True)))
    if refusals and len(refusals) == len([uri for uri in uris if uri]):
        raise UserError(f"--input {manifest}: none of its {len(refusals):,} images may be read with the credentials at "
                        "hand.")
    return files
