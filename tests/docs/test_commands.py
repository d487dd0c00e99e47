"""Every command of the documentation: run as it is written, or listed in `not_run.py` with the reason."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.not_run import NOT_RUN, TRAINING
from tests.docs.pages import COMMANDS, PAGES, SHOWN, Block, find_blocks
from tests.docs.session import clone_repository, find_missing_lines, make_environment, run_blocks
from tests.support.cluster import shared_cluster
from tests.support.jobs import job
from tests.support.once import make_once

BLOCKS = [block for page in PAGES for block in find_blocks(page)]
RUN = {
    page: [
        block
        for block in BLOCKS
        if block.page == page and block.language in COMMANDS and (page, block.first_command) not in NOT_RUN
    ]
    for page in PAGES
}


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """The folder that `make demo` leaves where the hub is away."""
    def make(folder: Path) -> None:
        done = job("demo", "--folder", folder, "--weights", "seed:0")
        assert done.returncode == 0, done.stdout + done.stderr

    return make_once(tmp_path_factory, "demo", make)


@pytest.fixture(scope="session")
def bucket(s3, demo) -> dict[str, str]:
    """The variables of a store whose bucket `photos` has the shards of the demo below `shards/`."""
    environ, fs = s3
    for shard in (demo / "shards").iterdir():
        fs.pipe_file(f"photos/shards/{shard.name}", shard.read_bytes())
    return environ


@pytest.mark.docs
@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.parametrize("page", [page for page in PAGES if RUN[page]])
def test_commands_run_as_they_are_written(page, demo, tmp_path, request):
    """A page is one shell in a fresh clone, after `make demo`."""
    run_page([block for block in RUN[page] if (page, block.first_command) != TRAINING], demo, tmp_path, request)


@pytest.mark.slow
@pytest.mark.training
@pytest.mark.s3
def test_the_page_of_own_classes_trains(demo, tmp_path, request):
    run_page(RUN[TRAINING[0]], demo, tmp_path, request)


def run_page(blocks: list[Block], demo: Path, folder: Path, request: pytest.FixtureRequest) -> None:
    """Run the blocks of a page in one shell, and look for the output that the page shows."""
    needs_s3 = any("s3://photos/" in block.text for block in blocks)
    environ = (
        request.getfixturevalue("bucket") if needs_s3 else shared_cluster().driver
    )  # its workers have no AWS variables
    clone = clone_repository(folder / "clone")
    shutil.copytree(demo, clone / "demo")
    mark = json.dumps({"input": str(clone / "demo/shards")})  # the folder was moved: docs/inputs.md says what to do
    (clone / "demo/tables/input.json").write_text(mark, encoding="utf-8")
    outputs = run_blocks(blocks, clone, make_environment(clone, environ))
    missing = {
        block.place: lines
        for block, printed in zip(blocks, outputs, strict=True)
        if (lines := find_missing_lines(block.output, printed))
    }
    assert not missing, "\n".join([*map(str, missing.items()), *outputs])[-8000:]


def test_every_block_says_what_it_is():
    assert not [block.place for block in BLOCKS if block.language not in COMMANDS + SHOWN]


def test_what_is_not_run_is_still_there():
    commands = {(block.page, block.first_command) for block in BLOCKS if block.language in COMMANDS}
    assert not {*NOT_RUN, TRAINING} - commands
    assert all(reason.strip() for reason in NOT_RUN.values())


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if (block.page, block.first_command) in NOT_RUN], ids=lambda block: block.place
)
def test_what_is_not_run_is_at_least_shell(block: Block):
    checked = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_output_is_compared_by_its_words():
    printed = "shards    5 labelled, 0 skipped\nimages    45 at 12.5/s\n"
    assert not find_missing_lines("images  1,000 at 9/s\n…\nshards 1 labelled, …", printed)
    assert find_missing_lines("images  45 in 12.5/s", printed) == ["images  45 in 12.5/s"]
