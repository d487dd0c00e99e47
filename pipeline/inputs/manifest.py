"""A manifest, a CSV or Parquet file that lists the URIs of images -> groups that stand for shards.

In: the manifest's URI; column `uri` (relative ones are seen from the manifest's folder), if known `size` in bytes and
`etag`. Out: a table of `GROUPS`, in the manifest's order: what is appended redoes the last group only.
Where `size` and `etag` are not given each file is asked for them: a request each. One that is not there, is a folder or may not be
read keeps its row; so does a line without a URI.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import fsspec
import pyarrow as pa

from pipeline.errors import UserError
from pipeline.formats.loose import group_ordered_files
from pipeline.inputs.csv_text import parse_csv
from pipeline.store import storage
from pipeline.store.listing import FILES
from pipeline.store.local_files import MISSING, REFUSED
from pipeline.store.read_parquet import read_table
from pipeline.store.retry import describe_error
from pipeline.store.uris import canonical_uri, find_fault

ASKED_AT_ONCE = 32
COLUMNS = ("uri", "size", "etag")


def read_manifest(uri: str) -> pa.Table:
    """The groups of a manifest.

    Raises:
        UserError: it cannot be understood, has no column `uri`, lists nothing, or holds credentials; the sentence names the line
            and the column.
    """
    data = storage.read_bytes(uri)
    columns, lines = _from_parquet(uri, data) if uri.lower().endswith(".parquet") else parse_csv("input", uri, data, COLUMNS)
    if not columns.get("uri"):
        raise UserError(f"--input {uri}: a manifest has a column uri, and a line for each image; this one has {', '.join(columns) or 'nothing'}"
                        f"{' and no line' if 'uri' in columns else ''}.")
    known = {""}
    uris = [_absolute(uri, line, said, known) for line, said in zip(lines, columns["uri"], strict=True)]
    if "size" in columns and "etag" in columns:
        files = [storage.File(one, *(_version(uri, line, size, etag) if one else (0, MISSING))) for line, one, size, etag in
                 zip(lines, uris, columns["size"], columns["etag"], strict=True)]
    else:
        files = _asked(uri, lines, uris)
    return group_ordered_files(pa.table([[file.path for file in files], [file.size for file in files], [file.etag for file in files]],
                                   schema=FILES))


def _from_parquet(uri: str, data: bytes) -> tuple[dict[str, list[str]], list[int]]:
    try:
        table = read_table(data)
    except pa.ArrowInvalid as error:
        raise UserError(f"--input {uri}: not a Parquet file that can be read ({describe_error(error, 200)}).") from error
    columns = {name: ["" if value is None else value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value).strip()
                      for value in table[name].to_pylist()] for name in table.column_names if name in COLUMNS}
    return columns, list(range(1, len(table) + 1))


def _absolute(manifest: str, line: int, uri: str, known: set[str]) -> str:
    """The URI of a line; empty if the line has none. `known`: schemes that fsspec has."""
    if not uri:
        return ""
    if "\0" in uri:
        raise UserError(f"--input {manifest}: line {line}, column uri: there is a zero byte in it.")
    if fault := find_fault(uri):
        raise UserError(f"--input {manifest}: line {line}, column uri: it {fault}")
    scheme = uri.partition("://")[0].lower() if "://" in uri else ""
    if scheme not in known:
        try:
            fsspec.get_filesystem_class(scheme)
        except (ValueError, ImportError) as error:
            raise UserError(f"--input {manifest}: line {line}, column uri: {uri}: {describe_error(error)}.") from error
        known.add(scheme)
    if scheme == "file" or uri.lower().startswith("file:/"):
        return canonical_uri(uri)
    if scheme:
        return scheme + uri[len(scheme):]
    return uri if uri.startswith("/") else storage.join(manifest.rpartition("/")[0], uri)


def _version(manifest: str, line: int, size: str, etag: str) -> tuple[int, str]:
    """Size and etag of a line, the etag without the quotes that some tools leave around it."""
    try:
        num_bytes = int(float(size)) if size.endswith(".0") else int(size)
    except ValueError:
        num_bytes = -1
    if num_bytes < 0:
        raise UserError(f"--input {manifest}: line {line}, column size: {size!r} is no number of bytes; give size and etag of every "
                        "image, or leave a column out, and each is asked for.")
    etag = etag.removeprefix("W/").strip("\"'")
    if not etag:
        raise UserError(f"--input {manifest}: line {line}, column etag: it is empty; give size and etag of every image, or leave a column "
                        "out, and each is asked for.")
    return num_bytes, etag


def _asked(manifest: str, lines: list[int], uris: list[str]) -> list[storage.File]:
    """The files as the store has them now."""
    refusals: list[PermissionError] = []

    def ask(numbered: tuple[int, str]) -> storage.File:
        line, uri = numbered
        try:
            found = storage.stat(uri) if uri else None
            return storage.File(uri, 0, MISSING) if found is None else storage.File(uri, found.size, found.etag)
        except PermissionError as error:
            refusals.append(error)
            return storage.File(uri, 0, REFUSED)
        except Exception as error:  # each store has its own exceptions
            if storage.is_no_file(error):
                return storage.File(uri, 0, MISSING)
            raise UserError(f"--input {manifest}: line {line}, column uri: {uri}: {describe_error(error, 300)}.") from error

    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        files = list(pool.map(ask, zip(lines, uris, strict=True)))
    if refusals and len(refusals) == len([uri for uri in uris if uri]):
        raise UserError(f"--input {manifest}: none of its {len(refusals):,} images may be read with the credentials at hand.")
    return files
