"""The files of the local disk under a folder, with what cannot be read.

In: a path. Out: entries: path, size, version, time of the last change. Links are followed, but not into a folder that
they are in.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from pipeline.store.uris import printable
from pipeline.store.versions import version_of

# The marks of what cannot be read. LOOP is a link to a folder that the link is in.
MISSING, REFUSED, LOOP = "missing", "refused", "loop"

Entry = tuple[str, int, str, float]  # path, size in bytes, version or mark, last change in seconds since 1970
_Identity = tuple[int, int]  # device and inode


def iterate_local(root: str, with_odd: bool, without: str | None) -> Iterator[Entry]:
    """The entries of all files under `root`. What vanishes meanwhile is left out.

    Args:
        with_odd: also yield what cannot be read, with a mark; the path of a folder then ends with `/`.
        without: a folder that is left out, whatever path leads to it.

    Raises:
        OSError: `root` cannot be listed; without `with_odd`, any folder below it.
    """
    folders: list[tuple[str, tuple[_Identity, ...]]] = [(root, (_identity(os.stat(root)),))]  # and all folders above
    left_out = _identity(os.stat(without)) if without and os.path.isdir(without) else None
    while folders:
        folder, above = folders.pop()
        try:
            entries = os.scandir(folder)
        except (FileNotFoundError, NotADirectoryError):
            if folder == root and not os.path.exists(root):
                raise
            continue
        except OSError:  # refused, or the path is too long
            if folder == root or not with_odd:
                raise
            yield folder + "/", 0, REFUSED, 0.0
            continue
        with entries:
            for entry in entries:
                try:
                    status = entry.stat()
                except OSError as error:
                    if with_odd and (entry.is_symlink() or not isinstance(error, FileNotFoundError)):
                        mark = REFUSED if isinstance(error, PermissionError) else MISSING
                        yield entry.path, 0, mark, _link_time(entry.path)
                    continue
                if stat.S_ISDIR(status.st_mode):
                    if _identity(status) in above:
                        if with_odd:
                            yield entry.path + "/", 0, LOOP, status.st_mtime
                    elif _identity(status) != left_out:
                        folders.append((entry.path, (*above, _identity(status))))
                elif stat.S_ISREG(status.st_mode) and not _is_name_taken(folder, entry.name):
                    version = version_of({"mtime": status.st_mtime, "size": status.st_size})
                    yield entry.path, status.st_size, version, status.st_mtime
                elif with_odd:
                    yield entry.path, 0, MISSING, status.st_mtime


def _is_name_taken(folder: str, name: str) -> bool:
    """Whether another file has the very name by which listings write down this one."""
    return printable(name) != name and os.path.lexists(os.path.join(folder, printable(name)))


def _link_time(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino
