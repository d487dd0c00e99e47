"""Shards and their truth -> what a training reads: of each shard the keys of the images that have a truth, and their label_ids.

In: `Examples`, and the classes if they are given. Out: `Labelled`. Where the truth or the keys are inside of tars, all their bytes are
read for it, and that a cluster does.
Not here: reading the images (`crops`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TextIO

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UserError
from pipeline.model.classes import unique_names
from pipeline.trainer.crops import LABELLED_SHARDS, Seen
from pipeline.training.enough import READ_BYTES
from pipeline.truth import sources
from pipeline.truth.class_ids import make_classes, resolve_label_ids
from pipeline.truth.coverage import Coverage, count_covered, first_example, first_few, require_match
from pipeline.truth.matching import match
from pipeline.truth.sources import Examples, Spread


@dataclass
class Labelled:
    """`shards`: a table of `crops.SHARDS`. `coverage`: of all images; none is rejected yet. `num_of_class`: images by name."""

    shards: pa.Table
    classes: pa.Table
    coverage: Coverage
    num_of_class: dict[str, int]

    def add(self, seen: list[Seen]) -> Coverage:
        """The coverage, with what was seen of the images once each."""
        names = unique_names(self.classes)
        rejected = sum((one.rejected for one in seen), Counter[tuple[str, int]]())
        targets: dict[bytes, set[int]] = {}
        for one in seen:
            for digest, of_image in one.target_of.items():
                targets.setdefault(digest, set()).update(of_image)
        by_class = dict(self.coverage.by_class)
        for (_, target), number in rejected.items():
            readable, every = by_class[names[target]]
            by_class[names[target]] = readable - number, every
        by_reason = Counter({reason: 0 for reason, _ in rejected})
        for (reason, _), number in rejected.items():
            by_reason[reason] += number
        return replace(self.coverage, num_with=self.coverage.num_with - rejected.total(), rejected=dict(by_reason.most_common()),
                       num_rejected_with=rejected.total(), num_copies=sum(len(of_image) > 1 for of_image in targets.values()), by_class=by_class,
                       failed=self.coverage.failed | {one.shard: one.failed for one in seen if one.failed})


class ShownOnce:
    """Shows what the truth covers: at the start, and what is known only once all shards were seen by each of `num_sides`, or at the end."""

    def __init__(self, labelled: Labelled, stream: TextIO, num_sides: int) -> None:
        self.labelled, self.stream = labelled, stream
        self.sides = ("train", "valid")[:num_sides]
        self.seen: dict[tuple[str, str], Seen] = {}
        self.shown = False
        first, *self.told = labelled.coverage.sentences()
        self._print([f"truth: {first.rpartition(', ')[0]}; what is rejected is counted in the first epoch", *map("note: {}".format, self.told)])

    def add(self, seen: Seen) -> None:
        """Take what a side saw of a shard, the first time."""
        if seen.side in self.sides and not self.shown:
            self.seen.setdefault((seen.side, seen.shard), seen)
            if len(self.seen) == len(self.sides) * len(self.labelled.shards):
                self.show()

    def show(self) -> None:
        """Print the sentences that are new, if they were not."""
        if not self.shown:
            self.shown = True
            first, *others = self.labelled.add(list(self.seen.values())).sentences()
            self._print([f"truth: {first}", *(f"note: {sentence}" for sentence in others if sentence not in self.told)])

    def _print(self, lines: list[str]) -> None:
        print("\n".join(lines), file=self.stream, flush=True)


def read_labelled(examples: Examples, given: pa.Table | None, spread: Callable[[], Spread]) -> Labelled:
    """The shards that have examples.

    Args:
        given: the classes; None: those that the truth names.
        spread: what reads shards on a cluster; called only if many bytes of tars are to be read.

    Raises:
        NothingMatches: the truth is of none of the images.
        UserError: the truth cannot be read, or names what is no class.
    """
    listed = list(sources.list_shards(str(examples.uri), examples.format))
    bytes_of_tars = sum(shard.size for shard in listed if shard.is_tar)
    if examples.where.startswith("member:") and not bytes_of_tars:
        raise UserError(f"--truth {examples.where} is for tar shards, and {listed[0].path} of {examples.uri} is none.")
    many = bytes_of_tars > READ_BYTES
    known = sources.read_truth(examples, None, given is None, spread() if many and not examples.where.lower().endswith(".csv") else None)
    if known.images is None:  # a CSV's, which may call the images by other names
        read = sources.read_images(examples, spread() if many else None)
        known = replace(known, images=read.images, failed=read.failed)
    matched = match(known.said, known.images, known.where)
    require_match(matched, known, f"--input {examples.uri}", known.images)
    sound = matched.truth.filter(pc.invert(matched.truth["strange"]))
    classes = make_classes(sound["value"].to_pylist(), known.kind) if given is None else given
    label_id, _ = resolve_label_ids(sound["value"].combine_chunks(), classes, known.kind)
    if label_id.null_count:
        strange = sound.filter(pc.is_null(label_id))
        raise UserError(f"--truth {examples.where}: {len(strange):,} images are of no class of the {len(classes):,} (such as {first_example(strange)}).")
    names = unique_names(classes)
    counts = Counter(label_id.to_pylist())
    num_of_class = {name: counts.get(at, 0) for at, name in enumerate(names)}
    return Labelled(_by_shard(sound, label_id, listed), classes, count_covered(matched, known, known.images, num_of_class), num_of_class)


def name_empty_classes(num_of_class: dict[str, int]) -> list[str]:
    """A sentence, if classes are named that have no image."""
    empty = [name for name, number in num_of_class.items() if not number]
    return [f"classes that have no image: {first_few(empty)}"] if empty else []


def _by_shard(sound: pa.Table, label_id: pa.Array, listed: list[sources.Listed]) -> pa.Table:
    table = pa.table({"shard": sound["shard"], "keys": sound["key"], "targets": label_id})
    table = table.group_by("shard", use_threads=False).aggregate([("keys", "list"), ("targets", "list")])
    of = {row["shard"]: row for row in table.to_pylist()}
    rows = [{"shard": one.path, "uri": one.uri, "keys": of[one.path]["keys_list"], "targets": of[one.path]["targets_list"], "group": one.group}
            for one in listed if one.path in of]
    return pa.Table.from_pylist(rows, schema=LABELLED_SHARDS)
