"""The progress line: on a terminal one line that rewrites itself; in a log a line now and then.

In: reports of blocks. Out: text on a stream (stderr).
"""

from __future__ import annotations

import time
from typing import TextIO

from pipeline.stages.reports import Report

TERMINAL_EVERY_S, LOG_EVERY_S = 0.2, 30.0


class Progress:
    """Counts the images and shards of an attempt, and shows the counts.

    Args:
        total_bytes: of the shards; the time left is estimated from it.
    """

    def __init__(self, stream: TextIO, num_shards: int, total_bytes: int) -> None:
        self.stream = stream
        self.num_shards = num_shards
        self.total_bytes = total_bytes
        self.num_images = self.num_rejected = self.num_committed = self.done_bytes = 0
        self.start_s = self.first_s = time.monotonic()
        self.shown_s = 0.0 if stream.isatty() else self.start_s

    def add(self, report: Report) -> None:
        """Count a report."""
        if not self.num_images:
            self.first_s = time.monotonic()
        for segment in report.segments:
            self.num_images += segment.num_images
            self.num_rejected += segment.counts.rejected.total()
            self.done_bytes += segment.num_bytes
            self.num_committed += segment.file_size is not None
        self.show()

    def show(self, *, last: bool = False) -> None:
        """Print the line, if it is time to. `last`: in any case."""
        now_s, is_terminal = time.monotonic(), self.stream.isatty()
        if not last and now_s - self.shown_s < (TERMINAL_EVERY_S if is_terminal else LOG_EVERY_S):
            return
        self.shown_s = now_s
        line = (f"{self.num_images:,} images, {self.images_per_s:.1f}/s, {self.num_rejected:,} rejected, "
                f"{self.num_committed:,} of {self.num_shards:,} shards{self._time_left()}")
        self.stream.write(f"\r\x1b[K{line}" + ("\n" if last else "") if is_terminal else line + "\n")
        self.stream.flush()

    @property
    def images_per_s(self) -> float:
        """Images a second since the attempt began."""
        return self.num_images / max(1e-9, time.monotonic() - self.start_s)

    def _time_left(self) -> str:
        if not self.done_bytes or self.done_bytes >= self.total_bytes:
            return ""
        seconds = int((time.monotonic() - self.first_s) * (self.total_bytes / self.done_bytes - 1))
        return f", {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"
