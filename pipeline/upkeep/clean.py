"""Files of an output that are no longer needed: old reports, and tables at places where no table lies any more.

In: an output, and what to keep. Out: fewer files.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pipeline.errors import CaughtError
from pipeline.store import storage
from pipeline.store.listing import list_files
from pipeline.tables.layout import labels_folder
from pipeline.tables.table_paths import SUFFIX, table_path

REMOVALS_AT_ONCE = 16


def remove_old_reports(output: str, keep: int) -> None:
    """Remove all reports but the newest `keep`. Their names begin with the time of the run."""
    folder = storage.join(output, "reports")
    for path in sorted(list_files(folder)["path"].to_pylist())[:-keep]:
        storage.remove(storage.join(folder, path))


def remove_misplaced(output: str, model_id: str, paths: list[str]) -> int:
    """Remove misplaced tables whose shards have a table at the right place; return how many were removed.

    A table that the store refuses to remove stays, and a later run tries again.

    Args:
        paths: of the misplaced tables, relative to `labels/model=<model_id>/`.
    """
    folder = labels_folder(output, model_id)

    def remove(path: str) -> bool:
        with CaughtError() as caught:
            storage.remove(storage.join(folder, path))
        return caught.error is None

    present: set[str] = set()
    with CaughtError():
        present = set(list_files(folder)["path"].to_pylist())
    with ThreadPoolExecutor(REMOVALS_AT_ONCE) as pool:
        return sum(pool.map(remove, [path for path in paths if table_path(path.removesuffix(SUFFIX)) in present]))
