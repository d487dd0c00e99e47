"""Buckets at another endpoint, without credentials, or paid by the requester; and a run from one store to another."""

import pytest

from pipeline.errors import UserError
from pipeline.store import storage
from pipeline.store.listing import list_files
from pipeline.store.s3.places import VARIABLE, find_options, parse_places
from tests.support.s3 import forget_s3


def test_the_ways_of_a_bucket(monkeypatch):
    assert parse_places("") == {}
    assert parse_places("photos=anonymous, my.tables=https://minio:9000+profile:lab,paid=requester-pays") == {
        "photos": {"anon": True}, "my.tables": {"endpoint_url": "https://minio:9000", "profile": "lab"},
        "paid": {"requester_pays": True}}
    monkeypatch.setenv(VARIABLE, "photos=anonymous")
    assert find_options("photos") == {"anon": True} and find_options("other") == {}
    assert storage.locate("s3://photos/a.tar")[0].anon and not storage.locate("s3://other/a.tar")[0].anon


@pytest.mark.parametrize("text", [
    "photos", "photos=", "photos=public", "=anonymous", "photos=ftp://x", "Photos=anonymous",
    "photos=http://key:secret@host", "photos=anonymous+", "photos=profile:"])
def test_what_is_no_way(text):
    with pytest.raises(UserError, match=r"LABEL_S3 has .*; it is BUCKET=WAY"):
        parse_places(text)


@pytest.mark.s3
def test_another_endpoint_and_no_credentials(s3, monkeypatch):
    """The variables of this process know neither the endpoint nor the key."""
    environ, fs = s3
    fs.pipe_file("photos/places/a.tar", b"one")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", environ["AWS_ACCESS_KEY_ID"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", environ["AWS_SECRET_ACCESS_KEY"])
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for way in ("", "+requester-pays"):
        monkeypatch.setenv(VARIABLE, f"photos={environ['AWS_ENDPOINT_URL']}{way}")
        forget_s3()
        assert storage.read_bytes("s3://photos/places/a.tar") == b"one"
        assert list_files("s3://photos/places")["path"].to_pylist() == ["a.tar"]
        storage.put_whole("s3://photos/places/b.tar", b"two")
        storage.remove("s3://photos/places/b.tar")
    monkeypatch.setenv(VARIABLE, f"photos={environ['AWS_ENDPOINT_URL']}+anonymous")
    forget_s3()
    with pytest.raises(PermissionError):  # this bucket is not public: the request had no key
        storage.read_bytes("s3://photos/places/a.tar")
