"""How a job ends: one sentence and a status, in one place."""

import ast
import re

import pytest

from pipeline.actors.address import NoCluster
from pipeline.actors.nodes import NoNodes
from pipeline.actors.places import NotPlaced
from pipeline.errors import CaughtError, JobError, UserError, report_error
from pipeline.inputs.find import NothingUnder
from pipeline.stop import Stopped
from pipeline.store.lease import Busy
from tests.support.jobs import ROOT


@pytest.mark.parametrize(("kind", "status"), [(UserError, 2), (NoCluster, 1), (NoNodes, 1), (NotPlaced, 1), (Busy, 4),
                                              (NothingUnder, 5)])
def test_each_error_has_its_status(kind, status, capsys):
    assert report_error(kind("It is so.")) == status
    assert capsys.readouterr().err == "error: It is so.\n"
    assert issubclass(kind, JobError) and issubclass(kind, UserError) == (kind is UserError)


def test_every_place_that_ends_a_job_takes_all_of_them():
    """`except UserError` would let a cluster that is not there pass as a traceback."""
    for path in (*ROOT.glob("jobs/*.py"), *ROOT.glob("pipeline/**/*.py")):
        handlers = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ExceptHandler)
                    and node.type]
        names = [(node.lineno, re.findall(r"\w+", ast.unparse(node.type))) for node in handlers]
        assert not [line for line, words in names if "UserError" in words], path


def test_an_error_is_caught_and_a_request_to_end_is_not():
    with CaughtError() as caught:
        raise ValueError("odd")
    assert isinstance(caught.error, ValueError)
    with CaughtError() as caught:
        pass
    assert caught.error is None
    with pytest.raises(Stopped), CaughtError():
        raise Stopped(15)
