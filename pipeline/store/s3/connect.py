"""An S3 filesystem that repeats no call and caches no listing.

In: a bucket. Out: an s3fs. The standard AWS variables say which server and as whom; `places` knows single buckets.
"""

from __future__ import annotations

from typing import Any

import fsspec

from pipeline.store.s3.places import find_options

# No listing is cached, because other runs write to the store too. `retry` repeats calls, so botocore must not. A whole
# file is one request: several at once begin with a look at its size, and may be of several versions.
S3_OPTIONS = {"use_listings_cache": False, "max_concurrency": 1, "config_kwargs": {
    "connect_timeout": 10, "read_timeout": 20, "retries": {"mode": "standard", "total_max_attempts": 1}}}


def is_s3(uri: str) -> bool:
    """Whether s3fs serves this URI."""
    return uri.startswith(("s3://", "s3a://"))


def s3_filesystem(bucket: str, **options: Any) -> Any:
    """An s3fs that reaches a bucket, and repeats no call."""
    fs = fsspec.get_filesystem_class("s3")(**S3_OPTIONS, **find_options(bucket), **options)
    fs.retries = 1
    return fs
