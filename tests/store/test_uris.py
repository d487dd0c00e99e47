"""Places as users type them: one spelling for one place, and a sentence for what would be another place."""

import pytest

from pipeline.config import check_uri
from pipeline.errors import UserError
from pipeline.model import weights
from pipeline.model.classes import load_classes
from pipeline.store.uris import canonical_uri, find_fault, is_same_place, is_within
from pipeline.tables import history
from tests.support.jobs import job

MISTYPED = {"s3:/bucket/x": "s3://bucket/x", "s3:bucket": "s3://bucket", "S3//b": "s3://b", "s3:///b/x": "s3://b/x",
            "s3:\\b": "s3://b", "gs:/b/x": "gs://b/x", "https:/host/w.pth": "https://host/w.pth",
            "abfs:c@a/x": "credentials", "s3:": "s3://bucket/path", "s3://": "s3://bucket/path",
            "file:x": "file:///x", "file://x/y": "file:///x/y"}


@pytest.mark.parametrize(("uri", "says"), MISTYPED.items())
def test_what_is_nearly_a_uri_is_refused_with_the_right_spelling(uri, says):
    with pytest.raises(UserError) as caught:
        check_uri("save", uri)
    assert str(caught.value).startswith("--save ") and says in str(caught.value) and str(caught.value).endswith(".")


def test_credentials_in_what_is_nearly_a_uri_are_not_repeated():
    fault = str(find_fault("s3:/key:secret@bucket"))
    assert "secret" not in fault and "credentials" in fault


def test_file_uris_are_the_places_that_they_name():
    uris = ("file:/a/b", "file:///a/b", "file://localhost/a/b/", "FILE:/a/b", "//a/b", "/a/b")
    assert {canonical_uri(uri) for uri in uris} == {"/a/b"}
    assert not any(map(find_fault, ("file:/a/b", "file:///a/b", "file://localhost/a/b")))


@pytest.mark.parametrize("path", ["data:2024/x", "./s3:x", "dt=2024:1", "a/s3:b", "git:x", "C:x", "S3-b//x",
                                  "memory://x", "memory:///x"])
def test_a_path_with_a_colon_is_a_path(path):
    assert find_fault(path) is None


def test_a_path_with_a_colon_is_labelled(shards, tmp_path, monkeypatch):
    (tmp_path / "data:2024").mkdir()
    (tmp_path / "data:2024/in").symlink_to(shards)
    monkeypatch.chdir(tmp_path)
    assert canonical_uri("data:2024/x") == f"{tmp_path}/data:2024/x"
    done = job("label", "--input", "file:" + str(tmp_path / "data:2024/in"), "--output", tmp_path / "data:2024/out",
               "--weights", "seed:0", "--dry-run")
    assert done.returncode == 0 and "would label 5 shards" in done.stdout, done.stderr


def test_each_place_that_takes_a_uri_refuses(tmp_path):
    for call in (lambda: weights.identify("s3:/b/w.pth"), lambda: load_classes("s3:/b/c.csv"),
                 lambda: history.read_settings("s3:/b/tables", None)):
        with pytest.raises(UserError, match="which is no URI; write s3://b/"):
            call()


@pytest.mark.parametrize(("name", "options", "flag"), [
    ("label", ("--input", "{in}", "--output", "s3:/bucket/x"), "--output"),
    ("label", ("--input", "s3:b", "--output", "{out}"), "--input"),
    ("label", ("--input", "{in}", "--output", "{out}", "--weights", "https:/host/w.pth"), "--weights"),
    ("label", ("--input", "{in}", "--output", "{out}", "--classes", "s3:/b/c.csv"), "--classes"),
    ("verify", ("--input", "{in}", "--output", "S3//b"), "--output"),
    ("query", ("labels", "--output", "gs:b"), "--output"),
    ("pack", ("--input", "{in}", "--output", "s3:/b"), "--output"),
    ("evaluate", ("--output", "s3:/b", "--truth", "t.csv"), "--output"),
    ("evaluate", ("--output", "{out}", "--truth", "s3:/b/t.csv"), "--truth"),
    ("finetune", ("--output", "{out}", "--truth", "t.csv", "--save", "s3:/b"), "--save"),
    ("train", ("--input", "{in}", "--truth", "folder", "--save", "s3:/b"), "--save")])
def test_no_job_makes_a_folder_of_a_mistyped_uri(shards, tmp_path, name, options, flag):
    places = {"in": shards, "out": tmp_path / "out"}
    done = job(name, *(option.format(**places) for option in options))
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"error: {flag} is " in done.stderr and "write " in done.stderr
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


def test_one_place_has_one_scheme():
    assert is_same_place("s3a://b/x", "s3://b/x") and is_same_place("gcs://b", "gs://b") and is_same_place("/a", "/a")
    assert not is_same_place("s3://b/x", "gs://b/x") and not is_same_place("s3://b/x", "s3://b/xy")
    assert is_within("s3a://b/x/y", "s3://b/x") and is_within("s3://b/x", "s3://b") and is_within("/a/b", "/")
    assert not is_within("s3://b/x", "s3://b/x") and not is_within("/a/bc", "/a/b") and not is_within("/b/x", "s3://b")
