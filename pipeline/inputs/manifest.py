"""A manifest -> shards, or groups that stand for shards. A manifest lists the URIs of images, or those of shards.

In: the URI of a CSV or Parquet file with a column `uri`, or of a text (`.txt`) with one URI a line. A relative URI
starts at the manifest's folder. The columns `size` (bytes) and `etag` are optional. Without them the store is asked for
each file, one request each.
Out, of images: a table of `GROUPS`, in the order of the manifest. So after lines are appended only the last group is
labelled again. An image that does not exist, is a folder or may not be read keeps its row. So does a line without a
URI.
Out, of shards (`.tar`, `.parquet` …): a table of `LISTED`. A shard that does not exist fails when it is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import fsspec
import pyarrow as pa

from pipeline.errors import UserError
from pipeline.formats.kept import KEPT, to_text
from pipeline.formats.loose import group_ordered_files
from pipeline.inputs.csv_text import decode_text, parse_csv
from pipeline.inputs.kinds import ANY_INPUT_FILE, ANY_SHARD_FILE
from pipeline.store import storage
from pipeline.store.listing import FILES
from pipeline.store.local_files import MISSING, REFUSED
from pipeline.store.read_parquet import read_table
from pipeline.store.retry import describe_error
from pipeline.store.uris import canonical_uri, find_fault, without_query
from pipeline.store.versions import File

REQUESTS_AT_ONCE = 32
COLUMNS = ("uri", "size", "etag")
LISTED = pa.schema([*FILES, ("uri", pa.string())])


def read_manifest(uri: str, keep: Sequence[str] = ()) -> pa.Table:
    """The groups of a manifest of images, as a table of `GROUPS`; or its shards, as a table of `LISTED`.

    Args:
        keep: columns of the manifest whose values go along with the images.

    Raises:
        UserError: the manifest cannot be understood, has no column `uri`, lists nothing, lists images and shards, or
            holds credentials. The sentence names the line and the column.
    """
    columns, lines = _read(uri, keep)
    if not columns.get("uri"):
        raise UserError(f"--input {uri}: a manifest has a column uri, and a line for each image or shard; this one has "
                        f"{', '.join(columns) or 'nothing'}{' and no line' if 'uri' in columns else ''}.")
    known_schemes = {""}
    uris = [_absolute_uri(uri, line, text, known_schemes) for line, text in zip(lines, columns["uri"], strict=True)]
    names_shards = _names_shards(uri, lines, uris)
    names = _name_shards(uri, lines, uris) if names_shards else []
    if missing := [name for name in keep if name not in columns and not names_shards]:
        raise UserError(f"--keep {missing[0]}: the manifest {uri} has no such column; it has {', '.join(columns)}.")
    if "size" in columns and "etag" in columns:
        files = [File(image, *(_parse_version(uri, line, size, etag) if image else (0, MISSING)))
                 for line, image, size, etag in zip(lines, uris, columns["size"], columns["etag"], strict=True)]
    else:
        files = _ask_store(uri, lines, uris, "shards" if names_shards else "images")
    paths, sizes, etags = [file.path for file in files], [file.size for file in files], [file.etag for file in files]
    if names_shards:
        return pa.table([names, sizes, etags, uris], schema=LISTED).sort_by("path")
    listed = pa.table([paths, sizes, etags], schema=FILES)
    if keep:
        values = zip(*(columns[name] for name in keep), strict=True)
        listed = listed.append_column("kept", pa.array([[text or None for text in row] for row in values], KEPT))
    return group_ordered_files(listed)


def _read(uri: str, keep: Sequence[str]) -> tuple[dict[str, list[str]], list[int]]:
    """The values of each column as text, and the number of each line."""
    data = storage.read_bytes(uri)
    if uri.lower().endswith(".parquet"):
        return _parse_parquet(uri, data, keep)
    if not uri.lower().endswith(".txt"):
        return parse_csv("input", uri, data, COLUMNS)
    text = decode_text("input", uri, data, "a manifest")
    lines = {number: line.strip() for number, line in enumerate(text.splitlines(), 1)}
    named = {number: line for number, line in lines.items() if line and not line.startswith("#")}
    for number, line in named.items():
        if not re.search(ANY_INPUT_FILE, without_query(line), re.IGNORECASE) and "/" not in line:
            raise UserError(f"--input {uri}: line {number}: {line[:60]!r} is no URI of a shard or an image; a .txt has "
                            "one on each line.")
    return {"uri": [*named.values()]}, [*named]


def _names_shards(manifest: str, lines: list[int], uris: list[str]) -> bool:
    """Whether all lines name shards by their suffixes; not, if all name images or nothing."""
    is_shard = [re.search(ANY_SHARD_FILE, without_query(uri), re.IGNORECASE) is not None for uri in uris]
    if not any(is_shard):
        return False
    if not all(is_shard):
        other, shard = lines[is_shard.index(False)], lines[is_shard.index(True)]
        raise UserError(f"--input {manifest}: line {shard} names a shard, and line {other} does not; a manifest lists "
                        "shards alone (.tar, .parquet) or images alone.")
    return True


def _name_shards(manifest: str, lines: list[int], uris: list[str]) -> list[str]:
    """A path for each shard: from the manifest's folder on, or for others the URI without `://`."""
    folder = manifest.rpartition("/")[0] + "/"
    line_of: dict[str, int] = {}
    for line, uri in zip(lines, uris, strict=True):
        plain = without_query(uri) if "://" in uri else os.path.normpath(uri)
        scheme, _, rest = plain.rpartition("://")
        path = plain.removeprefix(folder) if plain.startswith(folder) else "/".join(
            filter(None, (scheme, rest.strip("/"))))
        if not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise UserError(f"--input {manifest}: line {line}, column uri: {uri} has an empty part, . or .. in it; "
                            "write the plain path.")
        if path in line_of:
            raise UserError(f"--input {manifest}: lines {line_of[path]} and {line} name the same shard, {uri}.")
        line_of[path] = line
    return [*line_of]


def _parse_parquet(uri: str, data: bytes, keep: Sequence[str]) -> tuple[dict[str, list[str]], list[int]]:
    """The values of each column as text, and the number of each row, from 1."""
    try:
        table = read_table(data)
    except pa.ArrowInvalid as error:
        reason = describe_error(error, 200)
        raise UserError(f"--input {uri}: not a Parquet file that can be read ({reason}).") from error
    columns = {name: [(to_text(value) or "").strip() if name in COLUMNS else to_text(value) or ""
                      for value in table[name].to_pylist()]
               for name in table.column_names if name in (*COLUMNS, *keep)}
    return columns, list(range(1, len(table) + 1))


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


def _ask_store(manifest: str, lines: list[int], uris: list[str], what: str) -> list[File]:
    """The files with the sizes and etags that the store has now."""
    def ask(line_and_uri: tuple[int, str]) -> File:
        line, uri = line_and_uri
        try:
            return replace(storage.stat_or_mark(uri), path=uri) if uri else File(uri, 0, MISSING)
        except Exception as error:  # each store has its own exceptions
            reason = describe_error(error, 300)
            raise UserError(f"--input {manifest}: line {line}, column uri: {uri}: {reason}.") from error

    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        files = list(pool.map(ask, zip(lines, uris, strict=True)))
    num_refused = sum(file.etag == REFUSED for file in files)
    if num_refused and num_refused == len([uri for uri in uris if uri]):
        raise UserError(f"--input {manifest}: none of its {num_refused:,} {what} may be read with the credentials at "
                        "hand.")
    return files
