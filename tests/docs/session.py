"""The commands of a page, run in order in one shell, as a reader types them.

In: blocks of a page. Out: what each block prints. A block fails where `bash -e` ends.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.docs.pages import ROOT, Block

LIMIT_S = 900  # on a loaded machine; a page takes 10 to 60 s on an idle one
_MARK = "@@ block "
_FOREIGN = ("LABEL_", "RAY_", "AWS_", "PYTEST_")  # variables of the caller that a reader does not have


def clone_repository(folder: Path) -> Path:
    """A repository with the files that git knows or would add, and a `.venv` that is the environment of the tests."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q", "."], cwd=folder, check=True)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def make_environment(clone: Path, more: Mapping[str, str]) -> dict[str, str]:
    """The variables of a reader's shell. `PYTHONPATH` stands for the install of this very clone."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    home = clone.parent / f"{clone.name}-home"
    home.mkdir(exist_ok=True)
    return environ | {"HOME": str(home), "PYTHONPATH": str(clone), "PYTHONUNBUFFERED": "1"} | more


def run_blocks(blocks: list[Block], clone: Path, environ: Mapping[str, str]) -> list[str]:
    """What each block prints, both streams together.

    Raises:
        AssertionError: a block ended with another status than 0, or all took too long; with the place and the output.
    """
    script = "set -e\n" + "".join(
        f"echo '{_MARK}{number}'\n{_as_shell(block)}\n" for number, block in enumerate(blocks)
    )
    shell = subprocess.Popen(
        ["bash", "-c", script],
        cwd=clone,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = shell.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)
        printed, _ = shell.communicate()
        shell.returncode = shell.returncode or -signal.SIGKILL
    outputs = [part.partition("\n")[2] for part in printed.split(_MARK)[1:]]
    last = blocks[len(outputs) - 1]
    assert shell.returncode == 0, f"{last.place}: status {shell.returncode}\n{last.text}\n{outputs[-1][-4000:]}"
    return outputs


def find_missing_lines(shown: str, printed: str) -> list[str]:
    """The lines that a page shows and a block did not print. Numbers may differ, and `…` stands for anything."""
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    return [
        line
        for line in shown.splitlines()
        if line.strip(" …") and not any(_pattern(line).search(real) for real in lines)
    ]


def _pattern(line: str) -> re.Pattern[str]:
    words = re.escape(" ".join(line.split())).replace(r"\ ", " ")
    return re.compile(re.sub(r"\d+(\\?[.,]\d+)*", r"[\\d.,]+", words).replace("…", ".*"))


def _as_shell(block: Block) -> str:
    match block.language:
        case "python":
            return f"python - <<'END_OF_BLOCK'\n{block.text}END_OF_BLOCK"
        case "sql":
            ask = "python -c 'import duckdb, sys; print(duckdb.sql(sys.stdin.read()))'"
            return f"{ask} <<'END_OF_BLOCK'\n{block.text}END_OF_BLOCK"
        case _:
            return block.text
