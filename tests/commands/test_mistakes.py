"""A mistake in a command line, a variable or a file is told in one sentence, without the words of a library."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.commands import extras
from pipeline.commands.app import main, parse_command
from pipeline.errors import UserError
from tests.support.jobs import ROOT

PLACES = {
    "run": ["--input", "a", "--output", "b"],
    "verify": ["--input", "a", "--output", "b"],
    "pack": ["--input", "a", "--output", "b"],
    "finetune": ["--output", "a", "--save", "b"],
    "train": ["--input", "a", "--save", "b"],
    "query": ["--output", "a"],
    "evaluate": ["--output", "a"],
    "bench": [],
}


def told(argv: list[str], environ: dict[str, str]) -> str:
    with pytest.raises(UserError) as caught:
        parse_command(argv, environ)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("verb", PLACES)
def test_an_unknown_flag_is_told_with_the_nearest(verb: str) -> None:
    known = "--repeats" if verb == "bench" else PLACES[verb][0]
    assert told([verb, *PLACES[verb], f"{known}s=x"], {}) == f"{known}s is no flag of this command; write {known}."
    assert told([verb, *PLACES[verb], "--zzzzzz", "x"], {}) == "--zzzzzz is no flag of this command."
    assert told([verb, *PLACES[verb], "--confg", "x"], {}) == "--confg is no flag of this command; write --config."


@pytest.mark.parametrize(
    ("verb", "field", "value", "words"),
    [
        ("run", "batch_size", 0, "it must be at least 1."),
        ("run", "max_rejected", 1.5, "it must be at most 1."),
        ("verify", "max_image_bytes", 0, "it must be at least 1."),
        ("pack", "images_per_shard", -1, "it must be at least 1."),
        ("finetune", "holdout", 1.0, "it must be less than 1."),
        ("train", "holdout", 0.0, "it must be more than 0."),
        ("train", "epochs", 2_000_000, "it must be at most 1,000,000."),
        ("train", "workers", 0, "it must be at least 1."),
        ("bench", "repeats", 0, "it must be at least 1."),
        ("evaluate", "format", "zip", "it takes one of auto, tar, parquet, images, manifest."),
        ("run", "decoders", "many", "it must be a whole number."),
        ("run", "max_rejected", "few", "it must be a number."),
        ("run", "lease", "maybe", "it must be true or false."),
    ],
)
def test_a_value_that_does_not_fit_is_named_where_it_stands(
    tmp_path: Path, verb: str, field: str, value: object, words: str
) -> None:
    argv, flag, variable, path = (
        [verb, *PLACES[verb]],
        f"--{field.replace('_', '-')}",
        f"LABEL_{field.upper()}",
        tmp_path / "c.toml",
    )
    shown = repr(value)
    assert told([*argv, f"{flag}={value}"], {}) == f"{flag} is {shown}; {words}"
    assert told(argv, {variable: str(value)}) == f"{variable} is {shown}; {words}"
    path.write_text(f"{field} = {value!r}\n")
    assert told([*argv, "--config", str(path)], {}) == f"{field} in --config {path} is {shown}; {words}"


def test_a_fault_of_a_place_is_named_where_it_stands(tmp_path: Path) -> None:
    assert told(["run", "--output", "b"], {"LABEL_INPUT": "s3:/x"}).startswith(
        "LABEL_INPUT is 's3:/x', which is no URI"
    )
    assert told(["train", *PLACES["train"]], {"LABEL_WEIGHTS": ""}) == "LABEL_WEIGHTS is empty."


def test_a_fault_that_a_verb_finds_is_named_where_it_stands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LABEL_OUTPUT", "s3:/x")
    assert main(["verify", "--input", "a"]) == 2
    assert capsys.readouterr().err.startswith("error: LABEL_OUTPUT is 's3:/x', which is no URI")


@pytest.mark.parametrize("verb", PLACES)
def test_a_misspelt_variable(verb: str) -> None:
    assert (
        told([verb, *PLACES[verb]], {"LABEL_CONFG": "x"})
        == "LABEL_CONFG is no variable of this job; write LABEL_CONFIG, or unset it."
    )


def test_one_file_and_one_environment_serve_all_verbs(tmp_path: Path) -> None:
    path = tmp_path / "night.toml"
    path.write_text(
        f'input = "{tmp_path}/in"\noutput = "{tmp_path}/out"\nbatch_size = 4\nmodel = "m"\nimages_per_shard = 5\n'
    )
    for verb in ("run", "verify", "pack"):
        assert parse_command([verb, "--config", str(path)], {"LABEL_HOLDOUT": "0.1", "LABEL_DECODERS": "2"}) is not None
    call = parse_command(["verify"], {"LABEL_CONFIG": str(path), "LABEL_MODEL": "other"})
    assert call is not None and call.arguments.arguments["model"] == "other"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["xyzzy"], "'xyzzy' is no verb of label-images; label-images --help lists them."),
        (["verfy"], "'verfy' is no verb of label-images; write verify."),
        (["run"], "--input is missing: give the flag with a value, LABEL_INPUT, or input in the file of --config."),
        (
            ["run", "--output", "b", "--input"],
            "--input is missing: give the flag with a value, LABEL_INPUT, or input in the file of --config.",
        ),
        (["verify", "--input", "a", "--output", "b", "c"], "'c' is left over: no flag of this command takes it."),
        (
            ["run", "--config"],
            "--config is missing: give the flag with a value, LABEL_CONFIG, or config in the file of --config.",
        ),
    ],
)
def test_other_mistakes(argv: list[str], words: str) -> None:
    assert told(argv, {}) == words


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["query", "--output", "a"], "QUERY and --sql: give one of them."),
        (["query", "labels", "--sql", "x", "--output", "a"], "QUERY and --sql"),
        (["query", "colours", "--output", "a"], "QUERY is 'colours'; it takes one of drift, "),
        (["query", "labels", "--set", "x", "--output", "a"], "--set is 'x'; it takes NAME=VALUE."),
        (["bench", "x"], "PART is 'x'; it takes some of decode, "),
        (["evaluate", "--output", "a"], "--truth and --input are missing"),
    ],
)
def test_mistakes_that_a_verb_finds(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err.startswith(f"error: {words}")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda package: None)
    for argv, extra in (
        (["query", "labels", "--output", "a"], "sql"),
        (["evaluate", "--output", "a", "--truth", "folder"], "sql"),
        (["finetune", "--output", "a", "--save", "b", "--truth", "folder"], "sql,train"),
        (["train", "--input", "a", "--save", "b"], "train"),
    ):
        assert main(argv) == 2
        assert f"pip install 'label-pipeline[{extra}]'" in capsys.readouterr().err


def test_a_refusal_of_a_job_is_one_line_and_imports_neither_torch_nor_ray() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "jobs/label.py", "--input", "a", "--output", "b"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LABEL_BATCH_SIZE": "0"},
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert (done.returncode, lines) == (2, ["error: LABEL_BATCH_SIZE is 0; it must be at least 1."])
    assert not {line.split("|")[-1].strip() for line in done.stderr.splitlines()} & {"torch", "ray"}
