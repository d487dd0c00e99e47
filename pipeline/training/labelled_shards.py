"""Shards and their truth -> the shards to train on: for each the keys of the images with a truth, and their label_ids.

In: `Examples`; the classes, if the user names them. Out: `LabelledShards`. If the truth or the keys are inside tars of
a store, all bytes of the tars must be read; a cluster does that.
Not here: reading images (`trainer/crops.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.actors.tasks import Map, map_here
from pipeline.errors import UserError
from pipeline.inputs.kinds import KINDS
from pipeline.model.classes import unique_names
from pipeline.model.spelling import first_few
from pipeline.trainer.crops import LABELLED_SHARDS, ShardReport
from pipeline.training.check_enough import MAX_BYTES_READ
from pipeline.truth.class_ids import make_classes, resolve_label_ids
from pipeline.truth.coverage import Coverage, count_covered, first_example, require_match
from pipeline.truth.matching import match
from pipeline.truth.read_shards import ListedShard, list_shards
from pipeline.truth.sources import Examples, read_images, read_truth


@dataclass
class LabelledShards:
    """The shards to train on.

    Attributes:
        shards: a table of `LABELLED_SHARDS`.
        classes: a table of `classes.SCHEMA`.
        coverage: of all images; none counts as rejected yet.
        num_of_class: the number of images of each class, by its unique name.
    """

    shards: pa.Table
    classes: pa.Table
    coverage: Coverage
    num_of_class: dict[str, int]

    def add_reports(self, reports: list[ShardReport]) -> Coverage:
        """The coverage after every image was decoded once. `reports` are of all sides and shards."""
        names = unique_names(self.classes)
        rejected = sum((report.rejected for report in reports), Counter[tuple[str, int]]())
        by_class = dict(self.coverage.by_class)
        by_reason = Counter({reason: 0 for reason, _ in rejected})
        for (reason, target), number in rejected.items():
            readable, total = by_class[names[target]]
            by_class[names[target]] = readable - number, total
            by_reason[reason] += number
        failed = {report.shard: report.failed for report in reports if report.failed}
        return replace(
            self.coverage, num_with=self.coverage.num_with - rejected.total(), rejected=dict(by_reason.most_common()),
            num_rejected_with=rejected.total(), num_copies=_count_copies(reports),
            by_class=by_class, failed=self.coverage.failed | failed)


def read_labelled_shards(examples: Examples, classes: pa.Table | None, connect_map: Callable[[], Map],
                         stream: TextIO | None = None) -> LabelledShards:
    """Find the shards to train on.

    Args:
        classes: None: the classes that the truth names.
        connect_map: gives a map on a cluster. It is called only if many bytes of shards must be read.
        stream: gets a line of progress now and then.

    Raises:
        NothingMatches: no image has a truth.
        UserError: the truth cannot be read, or names something else than a class.
    """
    shards = list_shards(str(examples.uri), examples.format)
    if examples.where.startswith("member:") and not any(shard.kind.truth_place == "member" for shard in shards):
        title = next(kind.title for kind in KINDS.values() if kind.truth_place == "member")
        raise UserError(f"--truth {examples.where} is for {title}, and {shards[0].path} of {examples.uri} is none.")

    def open_map(num_bytes: int) -> AbstractContextManager[Map]:
        return nullcontext(connect_map()) if num_bytes > MAX_BYTES_READ else map_here(num_bytes)

    truth = read_truth(examples, None, classes is None, open_map, shards, stream)
    if truth.images is None:  # a CSV may name images in other ways than by their keys
        images = read_images(examples, open_map, shards, stream)
        truth = replace(truth, images=images.images, failed=images.failed)
    matched = match(truth.given, truth.images, truth.where)
    require_match(matched, truth, f"--input {examples.uri}", truth.images)
    sound = matched.truth.filter(pc.invert(matched.truth["strange"]))
    if classes is None:
        classes = make_classes(sound["value"].to_pylist(), truth.kind)
    label_id, _ = resolve_label_ids(sound["value"].combine_chunks(), classes, truth.kind)
    if label_id.null_count:
        foreign = sound.filter(pc.is_null(label_id))
        raise UserError(f"--truth {examples.where}: {len(foreign):,} images are of no class of the {len(classes):,} "
                        f"(such as {first_example(foreign)}).")
    num_of_id = Counter(label_id.to_pylist())
    num_of_class = {name: num_of_id.get(number, 0) for number, name in enumerate(unique_names(classes))}
    coverage = count_covered(matched, truth, truth.images, num_of_class)
    return LabelledShards(_group_by_shard(sound, label_id, shards), classes, coverage, num_of_class)


def _count_copies(reports: list[ShardReport]) -> int:
    """The images, by digest, that have several targets."""
    seen = pa.concat_tables([pa.table([np.empty(0, np.uint64), np.empty(0, np.int32)], ["digest", "target"]),
                             *(pa.table([np.asarray(report.digests), np.asarray(report.targets)], ["digest", "target"])
                               for report in reports)])
    each = seen.group_by("digest").aggregate([("target", "count_distinct")])
    return len(each.filter(pc.greater(each["target_count_distinct"], 1)))


def name_empty_classes(num_of_class: dict[str, int]) -> list[str]:
    """One sentence with the classes that have no image; none if there is no such class."""
    empty = [name for name, number in num_of_class.items() if not number]
    return [f"classes that have no image: {first_few(empty)}"] if empty else []


def _group_by_shard(truth: pa.Table, label_id: pa.Array, shards: list[ListedShard]) -> pa.Table:
    """A table of `LABELLED_SHARDS`, in the order of the listing. Shards without truths are left out."""
    table = pa.table({"shard": truth["shard"], "keys": truth["key"], "targets": label_id})
    table = table.group_by("shard", use_threads=False).aggregate([("keys", "list"), ("targets", "list")])
    row_of = {row["shard"]: row for row in table.to_pylist()}
    rows = [{"shard": shard.path, "uri": shard.uri, "size": shard.size, "keys": row_of[shard.path]["keys_list"],
             "targets": row_of[shard.path]["targets_list"], "group": shard.group}
            for shard in shards if shard.path in row_of]
    return pa.Table.from_pylist(rows, schema=LABELLED_SHARDS)
