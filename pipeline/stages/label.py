"""The second stage: blocks of pixels in, blocks of answers out; one network an actor.

Work that takes time beside the network (rows, thumbnails, files) is left to the sink, which has processors for such
work.
Not here: what the network computes (`labeller`), and how a device runs the network.
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
from pipeline.stages.batch import LABELLED, fail_segment, pack_answers, pixels_of, samples_of, segments_of
from pipeline.stages.failures import describe_failure, report_failures
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

    After an error of the device no later answer can be trusted. So the shards of that block fail, and with the next
    call the process ends; Ray starts another one.

    Args:
        make_labeller: called once, where the actor runs.
        num_classes: number of classes of the labeller.
    """

    def __init__(self, make_labeller: Callable[[], LabelsImages], num_classes: int) -> None:
        self.labeller = make_labeller()
        self.node = this_node()
        self.broken = False
        self.busy = BusyTime()
        self.picker = Picker(num_classes)
        self.picker_lock = threading.Lock()

    @report_failures(LABELLED)
    def __call__(self, block: pa.Table) -> pa.Table:
        if self.broken:
            os._exit(1)
        self.busy.begin()
        image_NHWC, segments, samples = pixels_of(block), block["segments"], block["samples"]
        kept = block["kept"]
        answer_NK = np.empty((0, 0), np.float32)
        pictures = pa.array([[]], LABELLED.field("pictures").type)
        try:
            if len(image_NHWC):
                answer_NK = self.labeller(image_NHWC)
        except RuntimeError as error:  # of torch or CUDA
            self.broken = True
            failed = [fail_segment(segment, describe_failure(error), True) for segment in segments_of(block)]
            segments = pa.array([failed], LABELLED.field("segments").type)
            samples = pa.array([[]], LABELLED.field("samples").type)
            kept = pa.array([[]], LABELLED.field("kept").type)
            image_NHWC = image_NHWC[:0]
        finally:
            label_s = self.busy.end()
        if len(image_NHWC):
            answers = split_answers(answer_NK)
            with self.picker_lock:
                pictures = self.picker.pick(samples_of(block), answers.label_id[:, 0], answers.prob[:, 0], image_NHWC)
        values: dict[str, Any] = {
            "segments": segments, "samples": samples, "kept": kept, "label_s": [label_s],
            "num_slots": [self.labeller.slots_for(len(image_NHWC)) if len(image_NHWC) else 0],
            "moved": [block["node"][0].as_py() != self.node], "precision": [self.labeller.precision],
            "runner": [self.labeller.runner], "runner_note": [self.labeller.runner_note],
            "answers": pack_answers(answer_NK), "pictures": pictures}
        return pa.table([values[name] for name in LABELLED.names], schema=LABELLED)


class BusyTime:
    """Seconds in which at least one of several concurrent calls is under way.

    Each second is counted by one call only.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.num_calls, self.since_s = 0, 0.0

    def begin(self) -> None:
        """A call begins."""
        with self.lock:
            if not self.num_calls:
                self.since_s = time.perf_counter()
            self.num_calls += 1

    def end(self) -> float:
        """A call ends. Seconds since the last call ended; since this call began, if no other was under way."""
        with self.lock:
            self.num_calls -= 1
            since_s, self.since_s = self.since_s, time.perf_counter()
            return self.since_s - since_s
