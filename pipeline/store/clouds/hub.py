"""`hf://`: dataset repositories, other repositories and buckets of the Hugging Face hub, as input.

In: a URI: `hf://datasets/OWNER/NAME[@REVISION]/path`, `hf://OWNER/NAME/path` or `hf://buckets/OWNER/NAME/path`; the
variables HF_TOKEN and HF_ENDPOINT. Out: a filesystem of fsspec that only reads. The version of a file is the digest of
its content, so a commit that leaves a shard alone does not label the shard again. huggingface_hub's own filesystem is
not used: to look at one file it lists the folder, it remembers listings, and it repeats requests itself.
Not here: the repetition of calls (`retry`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # they are of its interface, by name only
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    parse_hf_uri,
)

TIMEOUT_S = 20.0


class HubFiles(AbstractFileSystem):  # type: ignore[misc]
    """The files of all repositories and buckets. Paths are URIs without `hf://`."""

    protocol = "hf"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """The file or the folder at a path. Raises FileNotFoundError."""
        path = self._strip_protocol(path)
        place = parse_hf_uri("hf://" + path)
        if not place.path_in_repo:
            self._check_root(place)
            return {"name": path, "size": 0, "type": "directory"}
        if place.is_bucket:
            found: list[Any] = [*self.api.get_bucket_paths_info(place.id, [place.path_in_repo])]
            if not found and any(True for _ in self._list(place, False)):
                return {"name": path, "size": 0, "type": "directory"}
        else:
            found = [*self.api.get_paths_info(place.id, place.path_in_repo, revision=place.revision,
                                              repo_type=place.type)]
        if not found:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return _describe(path, found[0])

    def exists(self, path: str, **options: Any) -> bool:
        """Whether there is a file or a folder at a path."""
        try:
            self.info(path)
        except (FileNotFoundError, EntryNotFoundError):
            return False
        return True

    def find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False,
             **options: Any) -> Any:
        """All files below a path, but not a file that the path itself names: nothing of the hub is removed."""
        infos = {info["name"]: info for info in self._describe_all(path, True) if info["type"] == "file"}
        return infos if detail else [*infos]

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """The files and folders directly below a path, or the file itself. Raises FileNotFoundError."""
        infos = self._describe_all(path, False) or [self.info(path)]
        return infos if detail else [info["name"] for info in infos]

    def _describe_all(self, path: str, recursive: bool) -> list[dict[str, Any]]:
        path = self._strip_protocol(path)
        place = parse_hf_uri("hf://" + path)
        root = path.removesuffix(place.path_in_repo).rstrip("/")
        try:
            return [_describe(f"{root}/{item.path}", item) for item in self._list(place, recursive)]
        except EntryNotFoundError:  # it is a file, or nothing
            return []

    def _list(self, place: Any, recursive: bool) -> Iterable[Any]:
        if place.is_bucket:
            prefix = place.path_in_repo and place.path_in_repo + "/"
            found = self.api.list_bucket_tree(place.id, prefix or None, recursive=recursive)
            return (item for item in found if item.path.startswith(prefix))
        return self.api.list_repo_tree(place.id, place.path_in_repo or None, recursive=recursive,
                                       revision=place.revision, repo_type=place.type)

    def _check_root(self, place: Any) -> None:
        """Raise an error with the hub's status unless the repository or the bucket exists."""
        if place.is_bucket:
            self.api.bucket_info(place.id)
        else:
            self.api.repo_info(place.id, revision=place.revision, repo_type=place.type)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> HubFile:
        return HubFile(self, self._strip_protocol(path), mode, **options)

    def url_of(self, path: str) -> str:
        """The address from which a file is read."""
        place = parse_hf_uri("hf://" + path)
        if place.is_bucket:
            return f"{self.api.endpoint}/buckets/{place.id}/resolve/{quote(place.path_in_repo)}"
        return hf_hub_url(place.id, place.path_in_repo, repo_type=place.type, revision=place.revision,
                          endpoint=self.api.endpoint)


class HubFile(AbstractBufferedFile):  # type: ignore[misc]
    """An open file of the hub."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{end - 1}"}
        reply = get_session().get(self.fs.url_of(self.path), headers=headers, timeout=TIMEOUT_S, follow_redirects=True)
        hf_raise_for_status(reply)
        data: bytes = reply.content
        return data


def _describe(path: str, item: Any) -> dict[str, Any]:
    """The `info` of a file or a folder, as the hub's client describes it."""
    if not hasattr(item, "size"):
        return {"name": path, "size": 0, "type": "directory"}
    digests = (getattr(getattr(item, "lfs", None), "sha256", None), getattr(item, "blob_id", None),
               getattr(item, "xet_hash", None))
    return {"name": path, "size": item.size, "type": "file", "etag": next(filter(None, digests)),
            "mtime": getattr(item, "mtime", None)}
