"""Streams and events of the CUDA stand-in: queues of work that somebody must wait for. See `cuda_stand_in.py`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tests.support.cuda_stand_in import StandIn


class Mark:
    """A place in a stream's queue: done when all before it is."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.done = stream, False


class Stream:
    """A queue of work."""

    def __init__(self, device: StandIn) -> None:
        self.device = device
        self.queue: deque[tuple[Callable[[], object], set[int]]] = deque()
        device.streams.append(self)

    def push(self, work: Callable[[], object], *touched: Tensor) -> None:
        with self.device.lock:
            self.queue.append((work, {address(tensor) for tensor in touched}))
            if not self.device.late:
                self.run()

    def run(self, until: Mark | None = None) -> None:
        with self.device.lock, torch.inference_mode():
            while self.queue and not (until and until.done):
                self.queue.popleft()[0]()

    def mark(self) -> Mark:
        mark = Mark(self)
        self.push(lambda: setattr(mark, "done", True))
        return mark

    def wait_for(self, mark: Mark) -> None:
        self.push(lambda: mark.stream.run(mark))

    def wait_stream(self, other: Stream) -> None:
        self.wait_for(other.mark())

    def synchronize(self) -> None:
        self.device.called("synchronize")
        self.run()


class Event:
    def __init__(self, device: StandIn, blocking: bool) -> None:
        self.device, self.blocking = device, blocking
        self.last: Mark | None = None

    def record(self) -> None:
        self.last = self.device.current().mark()

    def wait(self) -> None:
        if self.last is not None:
            self.device.current().wait_for(self.last)

    def synchronize(self) -> None:
        assert self.blocking, "synchronize() of an event that is not blocking spins"
        self.device.called("synchronize")
        if self.last is not None:
            self.last.stream.run(self.last)


class OnStream:
    """`torch.cuda.stream`."""

    def __init__(self, device: StandIn, stream: Stream) -> None:
        self.device, self.stream = device, stream

    def __enter__(self) -> None:
        self.before = self.device.current()
        self.device.local.stream = self.stream

    def __exit__(self, *_: object) -> None:
        self.device.local.stream = self.before


def address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
