"""The files of an Iceberg log, read and put as the job reads and puts all its files: with the same credentials, retries
and whole puts.

`pyiceberg` makes one `StoreFiles` by its name (the property py-io-impl).
"""

from __future__ import annotations

import io
from types import TracebackType
from typing import Any

from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile, OutputStream

from pipeline.store import storage
from pipeline.store.retry import with_retries
from pipeline.tables.table_paths import SUFFIX


class StoredFile(InputFile):
    """A file to read. Of a Parquet file only the footer is read; other files are read whole."""

    def __len__(self) -> int:
        return storage.stat(self.location).size

    def exists(self) -> bool:
        """Whether there is such a file."""
        return storage.exists(self.location)

    def open(self, seekable: bool = True) -> InputStream:
        """The open file. Raises FileNotFoundError."""
        if not self.location.endswith(SUFFIX):
            return io.BytesIO(storage.read_bytes(self.location))
        fs, path = storage.locate(self.location)
        file: Any = with_retries(lambda: fs.open(path, "rb"))
        return file  # type: ignore[no-any-return]


class _Upload(io.BytesIO):
    """The bytes of a new file, which is put when they are complete."""

    def __init__(self, location: str, overwrite: bool) -> None:
        super().__init__()
        self.location, self.overwrite = location, overwrite

    def close(self) -> None:
        if self.closed:
            return
        data = self.getvalue()
        super().close()
        if self.overwrite:
            storage.put_whole(self.location, data)
        elif not storage.put_new(self.location, data):
            raise FileExistsError(self.location)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            super().close()


class FileToStore(OutputFile):
    """A file to put."""

    def __len__(self) -> int:
        return storage.stat(self.location).size

    def exists(self) -> bool:
        """Whether there is such a file."""
        return storage.exists(self.location)

    def to_input_file(self) -> InputFile:
        """The file, to be read."""
        return StoredFile(self.location)

    def create(self, overwrite: bool = False) -> OutputStream:
        """A stream whose bytes are put as one file when it is closed. Raises FileExistsError, then."""
        return _Upload(self.location, overwrite)


class StoreFiles(FileIO):
    """All files of a log, by their URIs."""

    def new_input(self, location: str) -> InputFile:
        """A file to read."""
        return StoredFile(location.removeprefix("file://"))

    def new_output(self, location: str) -> OutputFile:
        """A file to put."""
        return FileToStore(location.removeprefix("file://"))

    def delete(self, location: str | InputFile | OutputFile) -> None:
        """Remove a file. No error if there is none."""
        storage.remove(location if isinstance(location, str) else location.location)
