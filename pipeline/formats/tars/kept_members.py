"""The members beside an image of a tar -> the values of `--keep`.

In: the contents of members by suffix. Out: a text or None for each source. A source is the suffix of a member, whose
text is the value, or else a name at the top of the member `.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.formats.kept import to_text
from pipeline.formats.samples import ShardUnreadable

JSON = "json"


def find_kept(key: str, members: Mapping[str, bytes], keep: Sequence[str]) -> tuple[str | None, ...]:
    """The value of each source for one key.

    Args:
        members: the content of each member that may have values, by its suffix in lower case.

    Raises:
        ShardUnreadable: the member `.json` is needed and is no JSON object.
    """
    named: Mapping[str, Any] = {}
    if JSON in members and any(source.lower() not in members for source in keep):
        named = _parse_object(key, members[JSON])
    return tuple(_decode(members[source.lower()]) if source.lower() in members else to_text(named.get(source))
                 for source in keep)


def _parse_object(key: str, content: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ShardUnreadable(f"{key}.json, which --keep reads, is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise ShardUnreadable(f"{key}.json, which --keep reads, is no JSON object")
    return value


def _decode(content: bytes) -> str:
    return content.decode("utf-8-sig", "backslashreplace").strip("\r\n")
