"""Prints the coverage of the truth: at the start, and once more when every image was decoded once.

In: `LabelledShards`; the `ShardReport`s of the training's readers. Out: lines for the user.
"""

from __future__ import annotations

from typing import TextIO

from pipeline.trainer.crops import ShardReport
from pipeline.training.labelled_shards import LabelledShards


class CoveragePrinter:
    """Prints the coverage at the start, and again after the first epoch or at the end. Rejected images are known then.

    Args:
        num_sides: how many of the sides `train` and `valid` read these shards.
    """

    def __init__(self, labelled: LabelledShards, stream: TextIO, num_sides: int) -> None:
        self.labelled, self.stream = labelled, stream
        self.sides = ("train", "valid")[:num_sides]
        self.reports: dict[tuple[str, str], ShardReport] = {}  # by side and shard
        self.is_finished = False
        first, *self.printed = labelled.coverage.sentences()
        start = f"truth: {first.rpartition(', ')[0]}; what is rejected is counted in the first epoch"
        self._print([start, *map("note: {}".format, self.printed)])

    def add(self, report: ShardReport) -> None:
        """Take the first report of a side for a shard. After the last one the coverage is printed."""
        if report.side in self.sides and not self.is_finished:
            self.reports.setdefault((report.side, report.shard), report)
            if len(self.reports) == len(self.sides) * len(self.labelled.shards):
                self.finish()

    def finish(self) -> None:
        """Print the coverage, once; of its notes only those that were not printed at the start."""
        if not self.is_finished:
            self.is_finished = True
            first, *others = self.labelled.add_reports(list(self.reports.values())).sentences()
            notes = [f"note: {sentence}" for sentence in others if sentence not in self.printed]
            self._print([f"truth: {first}", *notes])

    def _print(self, lines: list[str]) -> None:
        print("\n".join(lines), file=self.stream, flush=True)
