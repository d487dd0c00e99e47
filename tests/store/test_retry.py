"""Which calls are repeated, how long the waits are, and how an error is worded."""

import errno

import pytest

from pipeline.errors import UserError
from pipeline.store import retry
from pipeline.store.explain import explain_error
from pipeline.store.retry import FIRST_WAIT_S, TRIES, describe_error, is_transient, with_retries


@pytest.mark.parametrize(("error", "transient"), [
    (OSError("Couldn't deserialize thrift: TProtocolException"), False), (OSError(), False),
    (OSError(errno.EBUSY, "busy"), True), (OSError(errno.ENOSPC, "full"), False), (TimeoutError(), True),
    (ConnectionResetError(), True), (ValueError("x"), False), (FileNotFoundError(errno.ENOENT, "gone"), False)])
def test_only_known_errors_are_transient(error, transient):
    assert is_transient(error) == transient


@pytest.mark.parametrize(("error", "says"), [
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x/y.tar"), "No such file or directory: /x/y.tar"),
    (ValueError("it  is\nodd."), "it is odd"), (TimeoutError(), "no answer in time"), (MemoryError(), "out of memory"),
    (KeyError("uri"), "there is no 'uri'")])
def test_an_error_is_one_line_without_a_full_stop(error, says):
    assert describe_error(error) == says


@pytest.mark.parametrize(("uri", "error", "says"), [
    ("s3://b/x", ValueError("odd."), "--input s3://b/x cannot be used (odd)."),
    ("s3://b/x", ConnectionError("refused"), "--input s3://b/x cannot be reached (refused)."),
    ("s3://b/{000..010}.tar", FileNotFoundError(), "do not stand for others; name the folder."),
    ("/x/*.tar", FileNotFoundError(), "do not stand for others; name the folder."),
    ("/x", FileNotFoundError(), "/x does not exist.")])
def test_a_place_that_cannot_be_used_is_one_sentence(uri, error, says):
    explained = explain_error("--input", uri, error)
    assert isinstance(explained, UserError) and str(explained).endswith(says)
    assert ".." not in str(explained).replace("000..010", "")


def test_the_waits_double_and_half_of_each_is_random(monkeypatch):
    waits = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)

    def fail():
        raise TimeoutError

    for _ in range(20):
        with pytest.raises(TimeoutError):
            with_retries(fail)
    of_each_call = [waits[at:at + TRIES - 1] for at in range(0, len(waits), TRIES - 1)]
    for number, of_all_calls in enumerate(zip(*of_each_call, strict=True)):
        longest = FIRST_WAIT_S * 2**number
        assert longest / 2 <= min(of_all_calls) < max(of_all_calls) <= longest
    assert sum(waits) / 20 == pytest.approx(24, abs=2)


def test_a_final_error_is_raised_at_once_and_a_transient_one_may_pass(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.0)
    errors = [TimeoutError(), ConnectionResetError()]

    def pass_later():
        if errors:
            raise errors.pop()
        return "answer"

    assert with_retries(pass_later) == "answer"
    errors += [TimeoutError(), FileNotFoundError(), TimeoutError()]
    with pytest.raises(FileNotFoundError):
        with_retries(pass_later)
    assert len(errors) == 1
