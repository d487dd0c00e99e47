"""The tables of labels of an output: put one, list those that count, list all versions that there are.

In: an output, a model. Out: files; tables of `FILES` whose `path` is that of the table (`layout.place_of`).
Of plain Parquet the files are what counts. Of a lake the newest snapshot of its log says what counts, and other files
are older versions, or newer ones that no run has committed yet.
"""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store import storage
from pipeline.store.listing import FILES, list_files, list_folders
from pipeline.store.versions import File
from pipeline.tables.lake import log
from pipeline.tables.layout import DATA, LAKES, Kind, data_folder, label_uri, labels_folder, place_of, tables_folder
from pipeline.tables.table_paths import SUFFIX, table_path


def find_kind(output: str) -> Kind:
    """What the tables of an output are. An output without tables is one of plain Parquet.

    Which folder an output has tells it, so no mark of it can be lost.
    """
    folders = _list_folders(output)
    return next((kind for kind in LAKES if kind in folders and any(
        name.startswith("model=") for name in _list_folders(tables_folder(output, kind)))), "parquet")


def has_tables(output: str) -> bool:
    """Whether an output has tables of any model."""
    return len(_list(tables_folder(output, find_kind(output)))) > 0


def put_table(output: str, model_id: str, kind: Kind, shard: str, data: bytes) -> File:
    """Put a version of the table of a shard; return its path, size and etag.

    Raises:
        OSError: the path of the shard leads out of the output; or any error of the store.
    """
    path = place_of(shard)
    if kind == "parquet":
        uri = label_uri(output, model_id, path, "")
        storage.put_whole(uri, data)
        file = storage.stat(uri)
        return File(path, file.size, file.etag)
    etag = f"{kind}:{hashlib.sha256(data).hexdigest()[:32]}"
    storage.put_whole(label_uri(output, model_id, path, etag), data)
    return File(path, len(data), etag)


def list_labels(output: str, model_id: str, partition: str | None = None) -> pa.Table:
    """The tables of a model that count, as a table of `FILES`.

    Args:
        partition: only the tables of this folder of the input; of plain Parquet no other folder is listed.
    """
    kind = find_kind(output)
    if kind == "parquet":
        return _list_versions(labels_folder(output, model_id), kind, partition)
    files = log.list_snapshot(log.LakeTable(output, model_id, kind))
    if partition is None:
        return files
    return files.filter(pc.starts_with(files["path"], table_path(partition.strip("/") + "/").removesuffix(SUFFIX)))


def list_versions(output: str, model_id: str, partition: str | None = None) -> pa.Table:
    """All versions of the tables of a model that there are, as a table of `FILES`. Files of other names are left out.

    Args:
        partition: list only the files of this folder of the input.
    """
    kind = find_kind(output)
    return _list_versions(labels_folder(output, model_id, kind), kind, partition)


def etags_of(files: pa.Table) -> dict[str, str]:
    """The etag of each table of a listing, by path."""
    return dict(zip(files["path"].to_pylist(), files["etag"].to_pylist(), strict=True))


def _list_versions(folder: str, kind: Kind, partition: str | None) -> pa.Table:
    if kind != "parquet":
        return _list_data(folder, kind, partition)
    if partition is None:
        files = _list(folder)
    else:
        plain = partition.strip("/")
        mirrored = table_path(plain + "/").removesuffix("/" + SUFFIX)
        places = dict.fromkeys((mirrored, plain))  # the plain folder may have misplaced tables
        files = pa.concat_tables(_list_below(folder, place) for place in places)
    return files.filter(pc.match_substring_regex(files["path"], r"(^|/)[^./][^/]*\.parquet$"))


def _list_data(folder: str, kind: Kind, partition: str | None) -> pa.Table:
    """The files of a lake table, with the path of the table that each is a version of."""
    place = DATA if partition is None else data_folder(table_path(partition.strip("/") + "/"))
    return log.name_tables(_list_below(folder, place), kind)


def _list_below(folder: str, place: str) -> pa.Table:
    """The files at a place in a folder, each by its path in the folder."""
    files = _list(storage.join(folder, place))
    return files.set_column(0, FILES.field("path"), pc.binary_join_element_wise(place, files["path"], "/"))


def _list_folders(uri: str) -> list[str]:
    try:
        return list_folders(uri)
    except FileNotFoundError:
        return []


def _list(uri: str) -> pa.Table:
    try:
        return list_files(uri)
    except FileNotFoundError:
        return FILES.empty_table()
