"""The jobs in processes that are forked from one Python which has imported what jobs import.

An import of Ray and torch costs four seconds of a processor, and the tests run some hundred jobs. The process has its
own arguments, variables, working folder, output and exit status, as a process that is started anew.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest.mock import patch

from tests.support.cluster import TOKEN

IMPORTS = ["pipeline.commands.app", "pipeline.run.night", "pipeline.actors.graph", "pipeline.report", "duckdb", "s3fs"]


def run_forked(command: list[str], environ: Mapping[str, str], cwd: Path,
               timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a script of Python, `command[0]`, to its end, with exactly these variables.

    Raises:
        subprocess.TimeoutExpired: the script ran longer than `timeout_s`, and was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        process = _start_server().Process(target=_run, args=(command, dict(environ), cwd, outputs))
        process.start()
        process.join(timeout_s)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout_s)
        assert process.exitcode is not None
        return subprocess.CompletedProcess(command, process.exitcode, *(output.read_text() for output in outputs))


@functools.cache
def _start_server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    with patch.dict(os.environ, TOKEN):  # Ray's C++ part reads these when it is imported
        forkserver.ensure_running()
    return context


def _run(command: list[str], environ: dict[str, str], cwd: Path, outputs: list[Path]) -> None:
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(cwd)
    for number, output in enumerate(outputs, start=1):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")
