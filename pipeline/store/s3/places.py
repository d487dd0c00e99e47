"""Buckets that are reached in another way than the AWS variables say: without credentials, at another endpoint, as the
requester who pays, by a profile.

In: the variable LABEL_S3, such as `photos=anonymous,tables=https://minio.example.com:9000`. Out: options of s3fs for a
bucket. All processes of a run have the variable, so input and output may be in different stores.
"""

from __future__ import annotations

import functools
import os
import re
from typing import Any

from pipeline.errors import UserError

VARIABLE = "LABEL_S3"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def find_options(bucket: str) -> dict[str, Any]:
    """The options of s3fs for a bucket; empty for one that LABEL_S3 does not name.

    Raises:
        UserError: LABEL_S3 is written in another way.
    """
    return parse_places(os.environ.get(VARIABLE, "")).get(bucket, {})


@functools.cache
def parse_places(text: str) -> dict[str, dict[str, Any]]:
    """The options of s3fs by bucket. Several ways of a bucket are joined by `+`.

    Raises:
        UserError: the text is written in another way.
    """
    return dict(_parse_place(place.strip()) for place in text.split(",") if place.strip())


def _parse_place(place: str) -> tuple[str, dict[str, Any]]:
    bucket, _, ways = place.partition("=")
    if not _BUCKET.fullmatch(bucket) or not ways:
        raise _refuse(place)
    options: dict[str, Any] = {}
    for way in ways.split("+"):
        if way == "anonymous":
            options["anon"] = True
        elif way == "requester-pays":
            options["requester_pays"] = True
        elif way.startswith("profile:") and way != "profile:":
            options["profile"] = way.removeprefix("profile:")
        elif re.fullmatch(r"https?://[^/@?]+/?", way):
            options["endpoint_url"] = way
        else:
            raise _refuse(place)
    return bucket, options


def _refuse(place: str) -> UserError:
    return UserError(f"{VARIABLE} has {place!r}; it is BUCKET=WAY, where WAY is anonymous, requester-pays, "
                     "profile:NAME, the https:// URL of an endpoint, or several of these joined by +.")
