"""`gs://`: gcsfs, with one request a call.

In: a URI; the credentials that gcsfs finds (GOOGLE_APPLICATION_CREDENTIALS, gcloud, the machine's own, none).
Out: a filesystem. The extra `gcs` installs gcsfs. Not here: the repetition of calls (`retry`).
"""

from __future__ import annotations

import io
import json
import os
import secrets
from typing import Any

import aiohttp
from gcsfs.core import (  # not the class of `gcsfs` itself, which asks a second API about each bucket
    GCSFileSystem,
    quote,
)

# gcsfs repeats each request up to six times. Ours are repeated by `retry`, and retries of retries multiply.
_request_once = GCSFileSystem._request.__wrapped__
TIMEOUT = aiohttp.ClientTimeout(total=None, connect=10, sock_read=20)  # seconds


class GoogleFiles(GCSFileSystem):  # type: ignore[misc]
    """A filesystem of Google's store that repeats no request and caches no listing."""

    def __init__(self, **options: Any) -> None:
        is_emulated = bool(os.environ.get("STORAGE_EMULATOR_HOST"))
        super().__init__(**{"use_listings_cache": False, "requests_timeout": TIMEOUT,
                            "token": "anon" if is_emulated else None} | options)

    async def _request(self, *args: Any, **options: Any) -> Any:
        try:
            return await _request_once(self, *args, **options)
        except OSError as error:
            if str(error).startswith("Forbidden"):  # what gcsfs makes of a 403; it looks for the word itself
                raise PermissionError(str(error)) from error
            raise

    async def _info(self, path: str, **options: Any) -> Any:
        """The object or the folder at a path. gcsfs itself asks for both at once; here a file costs one request."""
        try:
            return await self._get_object(self._strip_protocol(path).rstrip("/"))
        except FileNotFoundError:
            return await super()._info(path, **options)

    async def _pipe_file(self, path: str, data: bytes, mode: str = "overwrite",
                         content_type: str = "application/octet-stream", **_: Any) -> None:
        """Put an object whole, in one request. With `mode="create"` raises FileExistsError if there is one.

        As gcsfs does it, but with a boundary that cannot be in the data.
        """
        bucket, key, _ = self.split_path(path)
        boundary = secrets.token_hex(16)
        body = b"".join([
            f"--{boundary}\nContent-Type: application/json; charset=UTF-8\n\n{json.dumps({'name': key})}\n".encode(),
            f"--{boundary}\nContent-Type: {content_type}\n\n".encode(), data, f"\n--{boundary}--".encode()])
        only_new = {"ifGenerationMatch": "0"} if mode == "create" else {}
        await self._call("POST", f"{self._location}/upload/storage/v1/b/{quote(bucket)}/o", uploadType="multipart",
                         headers={"Content-Type": f'multipart/related; boundary="{boundary}"'}, data=io.BytesIO(body),
                         **only_new)
