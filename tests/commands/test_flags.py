"""The flags of all verbs: those of former days are there, and mean the same; help shows them."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from pipeline.ask.named_queries import list_queries
from pipeline.commands.app import create_app, main, parse_command
from tests.commands.frozen import FLAGS, QUERIES, REQUIRED
from tests.support.jobs import ROOT

NEWER = ("prune", "relabel", "duplicates", "index")
SCRIPTS = {"label": "run"} | {verb: verb for verb in (*NEWER, *FLAGS) if verb != "run"}


@pytest.mark.parametrize("verb", FLAGS)
def test_the_flags_of_former_days(verb: str) -> None:
    arguments = [
        argument
        for argument in create_app({}, {})[verb].assemble_argument_collection()
        if argument.name.startswith("--")
    ]
    by_flag = {name: argument for argument in arguments for name in (*argument.names, *argument.negatives)}
    assert {"--config", *FLAGS[verb]} - by_flag.keys() == {"--config"}
    for flag, (choices, default) in FLAGS[verb].items():
        if flag != "--config":
            found = by_flag[flag].get_choices() or None
            assert found is None if choices is None else {*choices} <= {*(found or ())}, flag
            if default is not None:
                assert by_flag[flag].field_info.default == default, flag
    assert sorted(REQUIRED[verb]) == sorted(argument.name for argument in arguments if argument.required)


def test_the_queries_of_former_days() -> None:
    assert {*QUERIES} <= {*list_queries()}


@pytest.mark.parametrize("verb", FLAGS)
def test_help_shows_each_flag(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{flag} " in shown for flag in FLAGS[verb]) and "LABEL_MAX_REJECTED" in shown


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("│ ")]
    assert [verb for verb in lines if verb in FLAGS] == list(FLAGS) and "prune" in lines  # a line each
    assert main(["--version"]) == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_verbs_and_flags(shell: Literal["bash", "zsh", "fish"]) -> None:
    script = create_app({}, {}).generate_completion(shell=shell)
    assert all(word in script for word in (*FLAGS, "max-rejected", "images-per-shard"))


def test_a_flag_given_twice_has_the_last_value() -> None:
    call = parse_command(["pack", "--input", "a", "--output=b", "--input", "c", "--images-per-shard=5"], {})
    assert call is not None and call.arguments.arguments == {"input": "c", "output": "b", "images_per_shard": 5}


def test_flags_with_many_values() -> None:
    call = parse_command(["query", "neighbours", "--output", "x", "--set", "key=a b", "--set", "number=-5"], {})
    assert call is not None and call.arguments.arguments["set"] == ["key=a b", "number=-5"]
    call = parse_command(["query", "--output", "x", "--sql", "SELECT -1"], {"LABEL_SET": "a=1 b=2"})
    assert call is not None and call.arguments.arguments["set"] == ["a=1", "b=2"]
    call = parse_command(["bench", "decode", "--repeats", "3", "model"], {})
    assert call is not None and call.arguments.args[0:2] == ("decode", "model")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_works_from_any_folder_where_nothing_is_installed(script: str, tmp_path: Path) -> None:
    """Help imports neither torch nor Ray, nor what reads tables."""
    done = subprocess.run(
        [sys.executable, "-I", "-X", "importtime", ROOT / "jobs" / f"{script}.py", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and f"label-images {SCRIPTS[script]}" in done.stdout
    modules = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not modules & {"torch", "ray", "pyarrow", "numpy", "duckdb", "fsspec"}
