"""HTTP statuses in the exceptions of libraries: which are worth another try, and what the others become."""

import errno

import pytest

from pipeline.store.clouds.statuses import as_os_error, find_status
from pipeline.store.retry import is_transient


class OfGoogle(Exception):
    def __init__(self, code):
        self.code = code


class OfAzure(Exception):
    def __init__(self, status_code):
        super().__init__("The server is busy.\nRequestId:1")
        self.status_code = status_code


class OfHub(OSError):
    def __init__(self, status_code):
        super().__init__("no answer")
        self.response = OfAzure(status_code)


@pytest.mark.parametrize("kind", [OfGoogle, OfAzure, OfHub])
@pytest.mark.parametrize(("status", "expected"), [
    (401, PermissionError), (403, PermissionError), (404, FileNotFoundError), (412, FileExistsError)])
def test_what_is_final(kind, status, expected):
    error = as_os_error(kind(status))
    assert isinstance(error, expected) and not is_transient(error)


@pytest.mark.parametrize("kind", [OfGoogle, OfAzure, OfHub])
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass(kind, status):
    assert is_transient(as_os_error(kind(status)))


def test_what_says_nothing_stays_as_it_is():
    for error in (ValueError("x"), OfGoogle(None), OfGoogle("resumable"), OfAzure(418), OfAzure(200),
                  OSError(errno.EIO, "x"), PermissionError("Forbidden")):
        assert as_os_error(error) is None
    assert find_status(OfGoogle("503")) == 503 and find_status(OfHub(416)) == 416
    assert str(as_os_error(OfAzure(503))).endswith("503 Service Unavailable: The server is busy. RequestId:1")
