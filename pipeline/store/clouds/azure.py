"""`abfs://` and `az://`: blobs of Azure, by Microsoft's own client.

In: a URI, `abfs://container/path` or `abfs://container@account.dfs.core.windows.net/path`; the variables
AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN,
AZURE_STORAGE_ANON=true or whatever azure-identity finds (a managed identity, `az login`).
Out: a filesystem of fsspec. The extra `azure` installs the client. adlfs is not used: it takes what follows `#` and `?`
in a name for something else, hides the status of some errors, and cannot be told to ask once.
Not here: the repetition of calls (`retry`).
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential
from azure.storage.blob import BlobPrefix, BlobServiceClient, ContentSettings
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from pipeline.errors import UserError
from pipeline.store.retry import Replaced

ONCE: dict[str, Any] = {"retry_total": 0, "connection_timeout": 10, "read_timeout": 20}  # `retry` repeats; seconds
_ACCOUNT = re.compile(r"([^/@]+)@([a-z0-9]+)\.(?:dfs|blob)\.core\.windows\.net(?=/|$)")


class AzureFiles(AbstractFileSystem):  # type: ignore[misc]
    """The blobs of one account. Paths are `container/name`; any other character of a name has no meaning."""

    protocol = ("abfs", "abfss", "az")

    def __init__(self, account_name: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.client = connect(account_name)

    @classmethod
    def _strip_protocol(cls, path: str) -> Any:
        scheme, mark, rest = path.partition("://")
        return _ACCOUNT.sub(r"\1", rest if mark and scheme in cls.protocol else path, count=1).strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        match = _ACCOUNT.match(path.partition("://")[2])
        return {"account_name": match[2]} if match else {}

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """The blob or the folder at a path. Raises FileNotFoundError."""
        path = self._strip_protocol(path)
        container, _, name = path.partition("/")
        if name:
            try:
                return _describe(container, self.client.get_blob_client(container, name).get_blob_properties())
            except ResourceNotFoundError:
                pass
        if next(iter(self._list(path)), None) is None and (name or not self._container(path).exists()):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return {"name": path, "size": 0, "type": "directory"}

    def exists(self, path: str, **options: Any) -> bool:
        """Whether there is a blob or a folder at a path."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def modified(self, path: str) -> Any:
        """When a blob was put, a datetime; DuckDB asks for it."""
        return self.info(path)["last_modified"]

    def find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False,
             **options: Any) -> Any:
        """All blobs below a path, in order of their names, or the blob itself."""
        container = self._strip_protocol(path).partition("/")[0]
        below = [_describe(container, blob) for blob in self._list(path)]
        infos = {info["name"]: info for info in below if info["type"] == "file"}
        if not infos:
            with suppress(FileNotFoundError):
                only = self.info(path)
                infos = {only["name"]: only} if only["type"] == "file" else {}
        return infos if detail else [*infos]

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """The blobs and folders directly below a path, or the blob itself. Raises FileNotFoundError."""
        path = self._strip_protocol(path)
        container, _, name = path.partition("/")
        found = self._container(path).walk_blobs(name_starts_with=name and name + "/", include=["metadata"])
        infos = {(info := _describe(container, item))["name"]: info for item in found}
        if not infos:
            only = self.info(path)
            infos = {only["name"]: only} if only["type"] == "file" else {}
        return [*infos.values()] if detail else [*infos]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        """The bytes of a blob from `start` to `end`."""
        container, _, name = self._strip_protocol(path).partition("/")
        length = None if end is None else end - (start or 0)
        reading = self.client.get_blob_client(container, name).download_blob(
            offset=start if length is None else start or 0, length=length, **options)
        data: bytes = reading.readall()
        return data

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", content_type: str | None = None,
                  **options: Any) -> None:
        """Put a blob whole. With `mode="create"` raises FileExistsError if there is one."""
        container, _, name = self._strip_protocol(path).partition("/")
        try:
            self.client.get_blob_client(container, name).upload_blob(
                value, length=len(value), overwrite=mode != "create",
                content_settings=ContentSettings(content_type=content_type) if content_type else None)
        except ResourceExistsError as error:
            if mode != "create":
                raise
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from error

    def rm_file(self, path: str) -> None:
        """Remove a blob. Raises FileNotFoundError, as a status of the store."""
        container, _, name = self._strip_protocol(path).partition("/")
        self.client.get_blob_client(container, name).delete_blob()

    def _open(self, path: str, mode: str = "rb", **options: Any) -> AzureFile:
        return AzureFile(self, self._strip_protocol(path), mode, **options)

    def _container(self, path: str) -> Any:
        return self.client.get_container_client(path.partition("/")[0])

    def _list(self, path: str) -> Any:
        name = self._strip_protocol(path).partition("/")[2]
        return self._container(self._strip_protocol(path)).list_blobs(name_starts_with=name and name + "/",
                                                                      include=["metadata"])


class AzureFile(AbstractBufferedFile):  # type: ignore[misc]
    """An open blob. Each request of a reader names the version that was opened. A written blob is there once closed."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        try:
            data: bytes = self.fs.cat_file(self.path, start, end, etag=self.details["etag"],
                                           match_condition=MatchConditions.IfNotModified)
        except ResourceModifiedError as error:
            raise Replaced(f"{self.path} was replaced while it was read") from error
        return data

    def _initiate_upload(self) -> None:
        self.blocks: list[str] = []

    def _upload_chunk(self, final: bool = False) -> bool:
        """Send what is in the buffer as a block; at the end make the blob of all blocks. Ray writes checkpoints so."""
        container, _, name = self.path.partition("/")
        client = self.fs.client.get_blob_client(container, name)
        if data := self.buffer.getvalue():
            self.blocks.append(f"{len(self.blocks):08}")
            client.stage_block(self.blocks[-1], data)
        if final:
            client.commit_block_list(self.blocks)
        return True


def connect(account_name: str | None) -> BlobServiceClient:
    """A client of the account that a URI names, or else of the account of the variables.

    Raises:
        UserError: nothing says which account.
    """
    text = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    if text and (account_name is None or f"AccountName={account_name};" in text + ";"):
        return BlobServiceClient.from_connection_string(text, **ONCE)
    account_name = account_name or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    if not account_name:
        raise UserError("abfs:// needs an account: set AZURE_STORAGE_CONNECTION_STRING or AZURE_STORAGE_ACCOUNT_NAME, "
                        "or write abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH.")
    credential = os.environ.get("AZURE_STORAGE_ACCOUNT_KEY") or os.environ.get("AZURE_STORAGE_SAS_TOKEN") or (
        None if os.environ.get("AZURE_STORAGE_ANON") == "true" else DefaultAzureCredential())
    return BlobServiceClient(f"https://{account_name}.blob.core.windows.net", credential, **ONCE)


def _describe(container: str, item: Any) -> dict[str, Any]:
    """The `info` of a blob or of a folder of a listing."""
    name = f"{container}/{item.name.rstrip('/')}"
    metadata = {key.lower(): value for key, value in (getattr(item, "metadata", None) or {}).items()}
    # An account with folders lists each folder as an empty blob with this mark; other tools put blobs named `folder/`.
    if isinstance(item, BlobPrefix) or item.name.endswith("/") or metadata.get("hdi_isfolder") == "true":
        return {"name": name, "size": 0, "type": "directory"}
    return {"name": name, "size": item.size, "type": "file", "etag": item.etag, "last_modified": item.last_modified}
