"""The progress line: on a terminal one line that rewrites itself, in a log a plain line now and then.

In: reports of blocks. Out: text on a stream (stderr), and the running counts of the run.
"""

from __future__ import annotations

import time
from typing import Any, TextIO

TERMINAL_EVERY_S, LOG_EVERY_S = 0.2, 30.0


class Progress:
    """Counts and tells. `total_bytes` of the pending shards is what the time left is reckoned from."""

    def __init__(self, stream: TextIO, num_shards: int, total_bytes: int) -> None:
        self.stream = stream
        self.num_shards = num_shards
        self.total_bytes = total_bytes
        self.num_images = self.num_rejected = self.num_committed = self.done_bytes = 0
        self.begun = self.first = time.monotonic()
        self.told = 0.0 if stream.isatty() else self.begun

    def add(self, report: dict[str, Any]) -> None:
        """Count one report."""
        if not self.num_images:
            self.first = time.monotonic()
        for segment in report["segments"]:
            self.num_images += segment["num_images"]
            self.num_rejected += segment["num_rejected"]
            self.done_bytes += segment["num_bytes"]
            self.num_committed += segment["file_size"] is not None
        self.tell()

    def tell(self, *, last: bool = False) -> None:
        """Print the line, if it is time to."""
        now, terminal = time.monotonic(), self.stream.isatty()
        if not last and now - self.told < (TERMINAL_EVERY_S if terminal else LOG_EVERY_S):
            return
        self.told = now
        line = (f"{self.num_images:,} images, {self.images_per_s:.1f}/s, {self.num_rejected:,} rejected, "
                f"{self.num_committed:,} of {self.num_shards:,} shards{self._left()}")
        self.stream.write(f"\r\x1b[K{line}" + ("\n" if last else "") if terminal else line + "\n")
        self.stream.flush()

    @property
    def images_per_s(self) -> float:
        """Over the time since the run began labelling."""
        return self.num_images / max(1e-9, time.monotonic() - self.begun)

    def _left(self) -> str:
        if not self.done_bytes or self.done_bytes >= self.total_bytes:
            return ""
        seconds = int((time.monotonic() - self.first) * (self.total_bytes / self.done_bytes - 1))
        return f", {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"
