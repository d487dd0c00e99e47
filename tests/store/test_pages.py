"""Listings of S3 side by side: every object once, in few requests, whatever the folders are."""

import random
import string
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.store.listing import list_files
from pipeline.store.s3 import pages

PAGE = 20


class Bucket:
    """What `pages.connect` returns, over given keys: pages of `PAGE`, in the order of the bytes of the keys."""

    req_kw: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, keys: list[str]) -> None:
        self.keys, self.requests = sorted(keys, key=str.encode), 0

    def call_s3(self, name: str, *, Bucket: str, Prefix: str, ContinuationToken: str = "", Delimiter: str = "") -> Any:
        self.requests += 1
        below = [key for key in self.keys if key.startswith(Prefix)]
        entries: list[tuple[str, bool]] = []
        for key in below:
            at = key.find(Delimiter, len(Prefix)) if Delimiter else -1
            entry = (key[:at + 1], True) if at >= 0 else (key, False)
            if entry not in entries[-1:]:
                entries.append(entry)
        start = int(ContinuationToken or 0)
        page, more = entries[start:start + PAGE], start + PAGE < len(entries)
        return {"Columns": [(key, 1, "e", 0.0) for key, is_folder in page if not is_folder],
                "CommonPrefixes": [{"Prefix": key} for key, is_folder in page if is_folder],
                "IsTruncated": more, "NextContinuationToken": str(start + PAGE)}


@pytest.fixture
def serve(monkeypatch) -> Iterator[Any]:
    """Let listings come from keys; returns the bucket."""
    def use(keys: list[str]) -> Bucket:
        bucket = Bucket(keys)
        monkeypatch.setattr(pages, "connect", lambda name, places: bucket)
        return bucket

    monkeypatch.setattr(pages, "LARGE", PAGE / 4)
    return use


@pytest.mark.parametrize("seed", range(30))
def test_every_object_is_listed_once(serve, seed):
    """Trees of all shapes: many files in a folder, many folders, files beside folders, names that sort oddly."""
    rng = random.Random(seed)
    letters = string.ascii_letters[:4] + "-.!~é漢 "
    keys = set()
    for _ in range(rng.choice((1, 19, 21, 300, 900))):
        depth = rng.randrange(0, 4)
        names = ["".join(rng.choices(letters, k=rng.choice((1, 1, 2)))) for _ in range(depth)]
        keys.add("/".join(["in", *names, f"{rng.randrange(500)}.tar"]))
    bucket = serve([*keys, "in/marks/", "inside.tar", "in.tar"])
    listed = list_files("s3://bucket/in")["path"].to_pylist()
    assert listed == sorted((key.removeprefix("in/") for key in keys), key=str.encode)
    assert bucket.requests <= 3 + 4 * len(keys) / PAGE + 40


@pytest.mark.parametrize(("name", "keys", "most"), [
    ("flat", [f"in/{number:04}.tar" for number in range(400)], 20),
    ("large folders", [f"in/dt={day}/{number:04}.tar" for day in range(10) for number in range(40)], 2 + 10 * 2),
    ("small folders", [f"in/{number:04}/a.tar" for number in range(400)], 20),
    ("one after another", [f"in/a/b/c/{number:04}.tar" for number in range(400)], 20 + 2 * 3)])
def test_how_many_requests(serve, name, keys, most):
    """Folders are listed one by one only where they are large: else each would cost a round trip."""
    bucket = serve(keys)
    assert len(list_files("s3://bucket/in")) == 400
    assert bucket.requests <= most, name


def test_an_error_ends_the_listing(serve):
    bucket = serve([f"in/dt={day}/{number:04}.tar" for day in range(10) for number in range(40)])
    answer = bucket.call_s3

    def failing(name: str, *, Prefix: str, **options: str) -> Any:
        if Prefix == "in/dt=7/":
            raise PermissionError("refused")
        return answer(name, Prefix=Prefix, **options)

    bucket.call_s3 = failing  # type: ignore[method-assign]
    with pytest.raises(PermissionError):
        list_files("s3://bucket/in")
