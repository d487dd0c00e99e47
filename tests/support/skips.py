"""A plugin of pytest: with CI=true, a skip that `tests/allowed_skips.toml` does not allow fails the run."""

import os
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ALLOWED = tomllib.loads((Path(__file__).parents[1] / "allowed_skips.toml").read_text(encoding="utf-8"))["skip"]
SKIPS: dict[str, str] = {}  # test id -> message


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        SKIPS[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")


def allows(entry: dict[str, str], test: str, message: str) -> bool:
    """Whether an entry of the list allows the skip of a test that says this message."""
    return fnmatchcase(test, entry["tests"]) and message.startswith(entry["message"])


def refused_skips() -> list[str]:
    """The skips that no entry of the list allows, each as one line."""
    return [f"{test}: {message}" for test, message in SKIPS.items()
            if not any(allows(entry, test, message) for entry in ALLOWED)]


def unused_entries() -> list[str]:
    """The entries of the list that allowed no skip of this run, each as one line."""
    return [f"{entry['tests']}: {entry['message']}" for entry in ALLOWED
            if not any(allows(entry, test, message) for test, message in SKIPS.items())]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    is_controller = not hasattr(session.config, "workerinput")  # the workers of a parallel session have this attribute
    is_ci = os.environ.get("CI") == "true"
    if is_ci and is_controller and session.exitstatus == pytest.ExitCode.OK and refused_skips():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get("CI") != "true":
        return
    for title, lines in (("skips that tests/allowed_skips.toml does not allow", refused_skips()),
                         ("entries of tests/allowed_skips.toml that this run did not need", unused_entries())):
        if lines:
            terminalreporter.section(title)
            terminalreporter.write("\n".join(lines) + "\n")
