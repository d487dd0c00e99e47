"""One spelling for the name of a class, wherever it is written: folder, column, tar member, CSV, file of classes.

In: a text as it is written. Out: the text by which names are compared; None if the text names no class.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

# Blanks, byte-order marks and characters without width: nobody sees them at the end of a name.
_INVISIBLE = r"[\s\ufeff\u200b-\u200f\u2060]+"
_ENDS = re.compile(rf"^{_INVISIBLE}|{_INVISIBLE}$")
_WHOLE_NUMBER = re.compile(r"(-?\d+)(\.0*)?")
# Hidden folders and folders of other tools.
_NO_CLASS_FOLDER = re.compile(r"\..*|@eaDir|__MACOSX|#recycle|#snapshot|\$RECYCLE\.BIN|_temporary|lost\+found",
                              re.IGNORECASE)
DATASET_PARTS = ("train", "training", "val", "valid", "validation", "test", "testing", "images", "photos", "data")
FEW = 3  # names in a sentence


def normalize_name(name: str) -> str:
    """A name without blanks and invisible characters at its ends, in Unicode's composed form (NFC)."""
    return _ENDS.sub("", unicodedata.normalize("NFC", name))


def read_name(text: str) -> str | None:
    """The class that a text names. `10.0` is `10`.

    None if the text is empty, `nan`, or -1: data sets write -1 for no class.
    """
    name = normalize_name(text)
    number = _WHOLE_NUMBER.fullmatch(name)
    if number:
        name = number[1] if number[2] else name
    return None if name in ("", "-1") or name.lower() == "nan" else name


def read_id(text: str) -> str | None:
    """The number of a class, as text without leading zeros; None as in `read_name`.

    Raises:
        ValueError: the text is no whole number.
    """
    name = read_name(text)
    return None if name is None else str(int(name))


def read_number(number: float) -> str | None:
    """The class that a number in a column names, as text; None for NaN and -1."""
    if (isinstance(number, float) and math.isnan(number)) or number == -1:
        return None
    return str(int(number)) if math.isfinite(number) and number == int(number) else str(number)


def read_folder(key: str) -> str | None:
    """The class of an image by the folder of its key: `cats` for `train/cats/1`.

    None if the key has no folder, or one of its folders is hidden or belongs to another tool.
    """
    folders = key.replace("\\", "/").split("/")[:-1]
    if not folders or any(_NO_CLASS_FOLDER.fullmatch(folder) for folder in folders):
        return None
    return normalize_name(folders[-1]) or None


def folder_name(key: str) -> str:
    """The name of the folder of a key, as it is written."""
    return ("/" + key.replace("\\", "/")).split("/")[-2]


def find_alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ only by case, blanks or invisible characters; groups and names are sorted."""
    groups = defaultdict(set)
    for name in names:
        groups[re.sub(_INVISIBLE, "", unicodedata.normalize("NFKC", name).casefold())].add(name)
    return sorted(sorted(group) for bare_name, group in groups.items() if bare_name and len(group) > 1)


def first_few(names: Sequence[str], number: int = FEW) -> str:
    """The first names of a list in words, and how many more there are."""
    return ", ".join(names[:number]) + (f" and {len(names) - number:,} more" if len(names) > number else "")
