"""What is tried again, and how an error is told."""

import errno

import pytest

from pipeline.errors import UserError
from pipeline.store.explain import explain_error
from pipeline.store.retry import describe_error, is_transient


@pytest.mark.parametrize(("error", "transient"), [
    (OSError("Couldn't deserialize thrift: TProtocolException"), False), (OSError(), False), (OSError(errno.EBUSY, "busy"), True),
    (OSError(errno.ENOSPC, "full"), False), (TimeoutError(), True), (ConnectionResetError(), True), (ValueError("x"), False),
    (FileNotFoundError(errno.ENOENT, "gone"), False)])
def test_only_known_errors_are_transient(error, transient):
    assert is_transient(error) == transient


@pytest.mark.parametrize(("error", "says"), [
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x/y.tar"), "No such file or directory: /x/y.tar"),
    (ValueError("it  is\nodd."), "it is odd"), (TimeoutError(), "no answer in time"), (MemoryError(), "out of memory"),
    (KeyError("uri"), "there is no 'uri'")])
def test_an_error_is_told_in_words_without_a_full_stop(error, says):
    assert describe_error(error) == says


@pytest.mark.parametrize(("uri", "error", "says"), [
    ("s3://b/x", ValueError("odd."), "--input s3://b/x cannot be used (odd)."),
    ("s3://b/x", ConnectionError("refused"), "--input s3://b/x cannot be reached (refused)."),
    ("s3://b/{000..010}.tar", FileNotFoundError(), "do not stand for others; name the folder."),
    ("/x/*.tar", FileNotFoundError(), "do not stand for others; name the folder."), ("/x", FileNotFoundError(), "/x does not exist.")])
def test_a_place_that_cannot_be_used_is_one_sentence(uri, error, says):
    made = explain_error("--input", uri, error)
    assert isinstance(made, UserError) and str(made).endswith(says) and ".." not in str(made).replace("000..010", "")
