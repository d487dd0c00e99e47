"""The list of the skips that CI allows."""

import pytest

from tests.support import skips


def test_a_skip_outside_the_list_is_refused(monkeypatch):
    allowed = ("tests/test_cluster_schemas.py::test_file_is_valid[rayjob]", "no KubeRay schema rayjob")
    unknown = ("tests/test_monitoring.py::test_rules_fire_when_they_should", "no promtool is installed")
    other_message = ("tests/test_cluster_schemas.py::test_file_is_valid[Dockerfile]", "no hadolint")
    monkeypatch.setattr(skips, "SKIPS", dict([allowed, unknown, other_message]))
    assert skips.refused_skips() == [": ".join(unknown), ": ".join(other_message)]
    assert len(skips.unused_entries()) == len(skips.ALLOWED) - 1


@pytest.mark.parametrize("entry", skips.ALLOWED, ids=lambda entry: entry["tests"])
def test_every_entry_has_a_reason(entry):
    assert entry.keys() == {"tests", "message", "reason"} and all(entry.values())
