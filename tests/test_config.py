"""The configuration: precedence, and one sentence for each mistake."""

import pytest

from pipeline.config import Config
from pipeline.errors import UserError
from tests.support.config import parse_config


def parse(*argv: str, **environ: str) -> Config:
    return parse_config(["--input", "in", "--output", "out", *argv], environ)


def test_flags_win_over_variables_over_the_file(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('precision = "bf16"\nbatch_size = 4\nmax_rejected = 0\n')
    config = parse("--config", str(path), "--precision", "fp32", LABEL_BATCH_SIZE="8", LABEL_PRECISION="fp16")
    assert (config.precision, config.batch_size, config.max_rejected) == ("fp32", 8, 0)
    assert not config.dry_run and parse("--dry-run").dry_run and parse(LABEL_DRY_RUN="yes").dry_run


@pytest.mark.parametrize(
    ("argv", "environ", "says"),
    [
        (["--batch-size", "0"], {}, "--batch-size is 0"),
        (["--max-rejected", "1.5"], {}, "--max-rejected is 1.5"),
        (["--output", "in"], {}, "--input and --output name the same place"),
        (["--input", "s3://key:secret@bucket"], {}, "--input holds credentials"),
        (["--output", "s3://key:se/cret@bucket/secret"], {}, "--output holds credentials"),
        (["--weights", "https://host/w.pth?X-Amz-Signature=secret"], {}, "--weights holds credentials"),
        (["--weights", "https://host/w.pth?v=1&Token=secret"], {}, "--weights holds credentials"),
        (["--config", "absent.toml"], {}, "--config absent.toml cannot be read"),
        ([], {"LABEL_BATCH_SIZE": "many"}, "LABEL_BATCH_SIZE is 'many'"),
        ([], {"LABEL_DEVICE": "tpu"}, "LABEL_DEVICE is 'tpu'"),
        ([], {"LABEL_MAX_REJECT": "1"}, "LABEL_MAX_REJECT is no variable of this job; write LABEL_MAX_REJECTED"),
        ([], {"LABEL_BATCHSIZE": "1"}, "write LABEL_BATCH_SIZE"),
        ([], {"LABEL_Precision": "fp32"}, "write LABEL_PRECISION"),
        (["--output", "s3:/bucket/x"], {}, "--output is 's3:/bucket/x', which is no URI; write s3://bucket/x"),
    ],
)
def test_a_mistake_is_one_sentence(argv, environ, says):
    with pytest.raises(UserError) as caught:
        parse(*argv, **environ)
    assert says in str(caught.value) and "secret" not in str(caught.value)


def test_variables_of_others_are_left_alone():
    """Kubernetes tells each pod of the services beside it, and not all that begins with LABEL_ is this job's."""
    links = (
        "LABEL_HEAD_SVC_SERVICE_HOST",
        "LABEL_HEAD_SVC_SERVICE_PORT",
        "LABEL_HEAD_SVC_SERVICE_PORT_DASHBOARD",
        "LABEL_HEAD_SVC_PORT",
        "LABEL_HEAD_SVC_PORT_8265_TCP",
        "LABEL_HEAD_SVC_PORT_8265_TCP_PROTO",
        "LABEL_HEAD_SVC_PORT_8265_TCP_PORT",
        "LABEL_HEAD_SVC_PORT_8265_TCP_ADDR",
        "LABEL_OUTPUT_PORT",
        "LABEL_INPUTS_SERVICE_HOST",
        "LABEL_STUDIO_URL",
        "LABEL_STUDIO_HOST",
    )
    assert parse(**dict.fromkeys(links, "x")) == parse()


def test_unknown_fields_and_wrong_types_of_the_file(tmp_path):
    path = tmp_path / "c.toml"
    for text, says in (
        ("colour = 1", "unknown field 'colour'"),
        ("batch_size = true", "batch_size in --config .* is True"),
        ("weights = 3", "weights in --config .* is 3"),
        ("x =", "not valid TOML"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=says):
            parse("--config", str(path))


def test_a_missing_input_is_named():
    with pytest.raises(UserError, match="--input is missing"):
        parse_config(["--output", "out"], {})


def test_what_is_no_credential_is_taken():
    assert parse("--input", "s3://bucket/a@b:c?key", "--weights", "https://host:8080/w.pth?v=1")


def test_places_are_canonical_from_birth(tmp_path, monkeypatch):
    """A worker of a running cluster has another current folder."""
    monkeypatch.chdir(tmp_path)
    config = parse("--input", "file://" + str(tmp_path) + "/in/", "--output", "out/../tables")
    assert (config.input, config.output) == (f"{tmp_path}/in", f"{tmp_path}/tables")
    assert parse("--input", "S3://Bucket/x/").input == "s3://Bucket/x"
    assert parse("--input", "odd\udcff").input == f"{tmp_path}/odd\\xff"


@pytest.mark.parametrize("folder", ["labels", "shards", "shards/deeper"])
def test_an_input_in_a_folder_that_the_output_makes_is_refused(folder):
    with pytest.raises(UserError, match=r"--input .* is in the folder .* of --output"):
        parse("--input", f"out/{folder}", "--output", "out")
    assert parse("--input", "out/images", "--output", "out").input.endswith("out/images")
