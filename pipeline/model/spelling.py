"""One spelling for the name of a class, wherever it stands: folders, columns, members of tars, CSVs, the file of classes.

In: what stands there. Out: the text that names are compared by, or None where no class is named.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

# Byte-order marks and characters without width, which no one sees at the end of a name.
_ENDS = r"[\s\ufeff\u200b-\u200f\u2060]+"
_MARGIN = re.compile(rf"^{_ENDS}|{_ENDS}$")
_WHOLE = re.compile(r"(-?\d+)(\.0*)?")
NO_FOLDERS = re.compile(r"\..*|@eaDir|__MACOSX|#recycle|#snapshot|\$RECYCLE\.BIN|_temporary|lost\+found", re.IGNORECASE)
PARTS = ("train", "training", "val", "valid", "validation", "test", "testing", "images", "photos", "data")  # of data sets


def spell(name: str) -> str:
    """A name without blanks and marks at its ends, in Unicode's composed form (NFC)."""
    return _MARGIN.sub("", unicodedata.normalize("NFC", name))


def read_name(text: str) -> str | None:
    """The class that a text names. None: it is empty, `nan`, or the -1 of data sets that means no class. `10.0` is `10`."""
    name = spell(text)
    whole = _WHOLE.fullmatch(name)
    if whole:
        name = whole[1] if whole[2] else name
    return None if name in ("", "-1") or name.lower() == "nan" else name


def read_id(text: str) -> str | None:
    """The number of a class, as text without zeros before it; None as in `read_name`.

    Raises:
        ValueError: the text is no whole number.
    """
    name = read_name(text)
    return None if name is None else str(int(name))


def name_number(number: float) -> str | None:
    """The class that a number of a column names, as text; None for NaN and -1."""
    if isinstance(number, float) and math.isnan(number) or number == -1:
        return None
    return str(int(number)) if math.isfinite(number) and number == int(number) else str(number)


def name_folder(key: str) -> str | None:
    """The class of an image by its key: the folder that it is in, `cats` of `train/cats/1`.

    None: it is in none, or in one of another tool, or one that is hidden.
    """
    folders = key.replace("\\", "/").split("/")[:-1]
    if not folders or any(NO_FOLDERS.fullmatch(folder) for folder in folders):
        return None
    return spell(folders[-1]) or None


def folder_of(key: str) -> str:
    """The name of the folder that an image is in, as it stands."""
    return ("/" + key.replace("\\", "/")).split("/")[-2]


def find_alike(names: Iterable[str]) -> list[list[str]]:
    """The names that differ only by case, by blanks or by characters that no one sees; each group in order."""
    groups = defaultdict(set)
    for name in names:
        groups[re.sub(_ENDS, "", unicodedata.normalize("NFKC", name).casefold())].add(name)
    return sorted(sorted(group) for bare, group in groups.items() if bare and len(group) > 1)
