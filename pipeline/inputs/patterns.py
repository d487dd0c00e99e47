"""A pattern of names -> the files that it names: `{00000..01023}.tar`, `{a,b}/*.tar`, `dt=2026-11-*/**/*.parquet`.

In: a URI. Braces count up or list names, as in a shell; each name that they make is a file that must be there. `*`, `?`
and `[ ]` stand for characters of names that are there, and `**` for folders. Of a web server only braces can be read.
Out: a folder, and its files by that name. A file or folder whose very name is the pattern comes first.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
from braceexpand import braceexpand
from fsspec.utils import glob_translate

from pipeline.errors import UserError
from pipeline.store.listing import FILES, list_input
from pipeline.store.local_files import MISSING
from pipeline.store.storage import exists, is_web, join, stat_or_mark

REQUESTS_AT_ONCE = 32
_SPECIAL, _WILD, _BRACE = re.compile(r"[*?\[{]"), re.compile(r"[*?\[]"), re.compile(r"\{")


def split_pattern(uri: str) -> tuple[str, str] | None:
    """The folder that holds all files of a pattern, and the rest of the pattern; None if the URI is no pattern."""
    special = _BRACE if is_web(uri) else _SPECIAL
    folder, rest = "", uri
    while match := special.search(rest):
        lead = rest[:match.start()].rpartition("/")[0]
        folder, rest = f"{folder}/{lead}" if folder and lead else folder or lead, rest[len(lead):].lstrip("/")
        first, slash, more = rest.partition("/")
        if folder.endswith(":/"):
            return None  # the name of a bucket is no pattern
        if is_web(uri) or not exists(f"{folder}/{first}"):
            return folder, rest
        if not slash:
            return None
        folder, rest = f"{folder}/{first}", more
    return None


def list_matching(folder: str, pattern: str, without: str | None) -> pa.Table:
    """The files below a folder that a pattern names, as a table of `FILES` with a column `changed`.

    A file that braces name and that is not there has the mark `MISSING` as its etag.

    Args:
        without: the URI of a folder that is left out.

    Raises:
        UserError: the braces are not balanced.
        FileNotFoundError: there is no such folder.
    """
    try:
        names = list(dict.fromkeys(braceexpand(pattern)))
    except ValueError as error:  # UnbalancedBracesError
        raise UserError(f"--input {folder}/{pattern}: its braces are not balanced.") from error
    if is_web(folder):
        return _ask(folder, names)
    files = list_input(folder, without=without)
    exact = [name for name in names if not _WILD.search(name)]
    is_named = pc.is_in(files["path"], pa.array(exact, pa.string()))
    for name in names:
        if _WILD.search(name):
            is_named = pc.or_(is_named, pc.match_substring_regex(files["path"], _to_regex(name)))
    absent = pc.filter(pa.array(exact, pa.string()), pc.invert(pc.is_in(pa.array(exact, pa.string()), files["path"])))
    missing = pa.table([absent, pa.array([0] * len(absent), pa.int64()), pa.array([MISSING] * len(absent), pa.string()),
                        pa.array([0.0] * len(absent), pa.float64())], schema=files.schema)
    return pa.concat_tables([files.filter(is_named), missing])


def _to_regex(name: str) -> str:
    """A name with wildcards as a regular expression of RE2."""
    return "^" + str(glob_translate(name)).removesuffix(r"\Z") + r"\z"


def _ask(folder: str, names: list[str]) -> pa.Table:
    """The files of a web server, which lists none."""
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        files = list(pool.map(lambda name: stat_or_mark(join(folder, name)), names))
    return pa.table([names, [file.size for file in files], [file.etag for file in files], [0.0] * len(names)],
                    schema=FILES.append(pa.field("changed", pa.float64())))
