"""A folder that is made once for a whole session of tests, also if the session has several processes."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def make_once(folders: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that all workers of a parallel session share. The first that needs it makes it, the others wait."""
    is_parallel = "PYTEST_XDIST_WORKER" in os.environ
    root = folders.getbasetemp().parent if is_parallel else folders.getbasetemp()
    with FileLock(root / f"{name}.lock"):
        if not (root / f"{name}.done").exists():
            shutil.rmtree(root / name, ignore_errors=True)  # of a worker that failed to make the folder
            (root / name).mkdir()
            make(root / name)
            (root / f"{name}.done").touch()
    return root / name
