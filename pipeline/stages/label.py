"""The second stage: blocks of pixels in, blocks of answers out; one network an actor.

What takes time beside the network is left to the sink, which has processors for it: rows, thumbnails, files.
Not here: what the network computes (`labeller`), and how it is run on a device.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pipeline.report.gallery import Picker
from pipeline.stages.batch import LABELLED, fail, pack_answers, pixels_of, samples_of, segments_of
from pipeline.stages.failures import describe_failure, tell_failures
from pipeline.stages.node import this_node
from pipeline.tables.labels import split_answers


class LabelsImages(Protocol):
    """What the stage needs of a `labeller.Labeller`."""

    precision: str
    runner: str
    runner_note: str

    def __call__(self, image_NHWC: np.ndarray) -> np.ndarray: ...
    def slots_for(self, num_images: int) -> int: ...


class LabelStage:
    """The stage: a callable, a table of `BLOCK` in, a table of `LABELLED` out.

    After an error of the device no later result can be trusted: its shards have failed, and with the next call the process
    ends; Ray starts another.

    Args:
        make_labeller: called once, where the actor runs.
        num_classes: that the labeller knows.
    """

    def __init__(self, make_labeller: Callable[[], LabelsImages], num_classes: int) -> None:
        self.labeller = make_labeller()
        self.node = this_node()
        self.broken = False
        self.busy = BusyTime()
        self.picker = Picker(num_classes)
        self.picking = threading.Lock()

    @tell_failures(LABELLED)
    def __call__(self, block: pa.Table) -> pa.Table:
        if self.broken:
            os._exit(1)
        self.busy.begin()
        image_NHWC, segments, samples = pixels_of(block), segments_of(block), block["samples"]
        answer_NK, pictures = np.empty((0, 0), np.float32), pa.array([[]], LABELLED.field("pictures").type)
        try:
            if len(image_NHWC):
                answer_NK = self.labeller(image_NHWC)
        except RuntimeError as error:  # of torch or CUDA
            self.broken = True
            segments = [fail(segment, describe_failure(error), True) for segment in segments]
            samples = pa.chunked_array([pa.array([[]], LABELLED.field("samples").type)])
            image_NHWC = image_NHWC[:0]
        finally:
            label_s = self.busy.end()
        if len(image_NHWC):
            answers = split_answers(answer_NK)
            with self.picking:
                pictures = self.picker.pick(samples_of(block), answers.label_id[:, 0], answers.prob[:, 0], image_NHWC)
        values: dict[str, Any] = {
            "segments": pa.array([segments], LABELLED.field("segments").type), "samples": samples, "label_s": [label_s],
            "num_slots": [self.labeller.slots_for(len(image_NHWC)) if len(image_NHWC) else 0],
            "moved": [block["node"][0].as_py() != self.node], "precision": [self.labeller.precision],
            "runner": [self.labeller.runner], "runner_note": [self.labeller.runner_note],
            "answers": pack_answers(answer_NK), "pictures": pictures}
        return pa.table([values[name] for name in LABELLED.names], schema=LABELLED)


class BusyTime:
    """Seconds in which at least one of several calls at once is under way; each second is told by one of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls, self.since = 0, 0.0

    def begin(self) -> None:
        with self.lock:
            if not self.calls:
                self.since = time.perf_counter()
            self.calls += 1

    def end(self) -> float:
        """Seconds since the last call ended, or since this one began if none was under way."""
        with self.lock:
            self.calls -= 1
            since, self.since = self.since, time.perf_counter()
            return self.since - since
