"""An error that would come again ends a training, and one that may pass does not."""

import pytest
import torch
from ray.exceptions import RayTaskError, UserCodeException

from pipeline.errors import UserError
from pipeline.formats.samples import ShardUnreadable
from pipeline.store.explain import explain_error
from pipeline.store.retry import Replaced
from pipeline.trainer.final_errors import EndAtFinalError, FinalError, is_final, to_final_error


def test_what_would_fail_again_is_told_from_what_may_pass() -> None:
    for error in (UserError("x."), ValueError("x"), IndexError("Target 9 is out of bounds."), ShardUnreadable("cut"),
                  Replaced("x"),
                  PermissionError(13, "no"), OSError(28, "No space left on device"), torch.OutOfMemoryError("x"),
                  KeyError("a")):
        assert is_final(error), error
    for error in (RuntimeError("Connection closed by peer"), ConnectionResetError(104, "reset"), TimeoutError(),
                  OSError("curl 28"),
                  MemoryError(), explain_error("--save", "s3://b", ConnectionRefusedError(111, "refused"))):
        if isinstance(error, UserError):
            error.__cause__ = ConnectionRefusedError(111, "refused")
        assert not is_final(error), error
    traceback = ("Traceback\npipeline.formats.samples.ShardUnreadable: a.tar: it is cut.\n\nThe above exception was "
                 "the direct cause\nray.exceptions.UserCodeException: UDF failed to process a data block.")
    of_reader = RayTaskError("f", traceback, UserCodeException("UDF failed"))
    assert is_final(of_reader) and str(to_final_error(of_reader)) == "a.tar: it is cut"
    assert not is_final(RayTaskError("f", traceback.replace("pipeline.formats.samples.ShardUnreadable",
                                                            "ConnectionResetError"), UserCodeException("x")))
    assert str(to_final_error(UserError("--save x cannot be used."))) == "--save x cannot be used"
    EndAtFinalError().after_exception(None, {0: RuntimeError("gone")})
    with pytest.raises(FinalError, match="nan"):
        EndAtFinalError().after_exception(None, {0: RuntimeError("gone"), 1: FinalError("the loss is nan")})
