"""What a truth covers: how many images have one, how many have none, and what else a user should know before a figure is trusted.

In: the truth of an output's images, in DuckDB. Out: a `Coverage`, and its sentences, the same for every job.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from pipeline.errors import JobError
from pipeline.model.spelling import PARTS, find_alike
from pipeline.truth.matching import IMAGES, Matched, match
from pipeline.truth.sources import Truth

NAMED = 10  # classes, in a line
FEW = 3  # of what is only told
_COUNTS = """
SELECT count(*) FILTER (error IS NULL AND value IS NOT NULL), count(*) FILTER (error IS NULL AND value IS NULL),
       count(*) FILTER (error IS NOT NULL AND value IS NOT NULL),
       arg_min(labels.key || ' in ' || labels.shard, (labels.shard, labels.index)) FILTER (error IS NULL AND value IS NULL)
FROM labels LEFT JOIN truth USING (shard, key)"""
_REJECTED = "SELECT error, count(*) FROM labels WHERE error IS NOT NULL GROUP BY error ORDER BY count(*) DESC, error"
_COPIES = """
SELECT count(*), arg_min(keys, first) FROM (
    SELECT list(key ORDER BY shard, index) AS keys, min(shard || key) AS first FROM labels JOIN truth USING (shard, key)
    WHERE error IS NULL AND NOT strange GROUP BY sha256 HAVING count(DISTINCT value) > 1)"""
_CLASSES = """
SELECT value, count(*) FILTER (error IS NULL), count(*) FROM labels JOIN truth USING (shard, key) WHERE NOT strange GROUP BY value"""
_FAILED = """
SELECT shard, arg_max(failure, labelled_at) FROM shards ANTI JOIN (SELECT DISTINCT shard FROM labels) USING (shard)
GROUP BY shard HAVING arg_max(status, labelled_at) = 'failed' ORDER BY shard"""


class NothingMatches(JobError):
    """The truth is of none of the images."""

    exit_code = 1


@dataclass
class Coverage:
    """Images are rows of the tables, or samples of the input; `num_with`, `num_without` and the rejected ones are all of them.

    `num_with`: readable images that have a truth; `num_without`: readable ones that have none. `rejected`: by reason.
    `num_rejected_with`: rejected images that have a truth. `num_unmatched`, `num_ambiguous`: truths of no image, of several.
    `num_strange`: truths that their own place gives no class. `num_copies`: digests of images that have several classes.
    `by_class`: readable images of each class, and all of it. `failed`: shards that could not be read. `spellings`: of a class, that differ
    from its name. `examples`: by the name of a count.
    """

    num_with: int = 0
    num_without: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    num_rejected_with: int = 0
    num_unmatched: int = 0
    num_ambiguous: int = 0
    num_strange: int = 0
    num_copies: int = 0
    by_class: dict[str, tuple[int, int]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    spellings: dict[str, list[str]] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def num_images(self) -> int:
        return self.num_with + self.num_without + sum(self.rejected.values())

    def _such_as(self, name: str) -> str:
        return f" (such as {self.examples[name]})" if self.examples.get(name) else ""

    def sentences(self) -> list[str]:
        """For a person: the counts, and then only what there is."""
        rejected = ", ".join(f"{reason} {number:,}" for reason, number in self.rejected.items())
        of_rejected = f" ({rejected}), of which {self.num_rejected_with:,} have a truth" if rejected else ""
        told = [f"{self.num_images:,} images: {self.num_with:,} with a truth, {self.num_without:,} without{self._such_as('without')}, " +
                f"{sum(self.rejected.values()):,} rejected{of_rejected}"]
        for number, name, words in (
                (self.num_unmatched, "unmatched", "truths that have no image"),
                (self.num_ambiguous, "ambiguous", "truths that fit several images or contradict each other, and so count for none"),
                (self.num_strange, "strange", "truths that name none of the classes which their own place lists"),
                (self.num_copies, "copies", "images (by SHA-256) that are in several classes")):
            if number:
                told.append(f"{words}: {number:,}{self._such_as(name)}")
        unread = sorted(name for name, (readable, every) in self.by_class.items() if every and not readable)
        if unread:
            told.append(f"classes that have images, but none that can be read: {first_few(unread)}")
        told += [f"one class is spelled in several ways: {name!r}, {', '.join(map(repr, others))}" for name, others in sorted(self.spellings.items())[:NAMED]]
        told += [f"{shard} could not be read: {why}" for shard, why in sorted(self.failed.items())[:NAMED]]
        if len(self.failed) > NAMED:
            told.append(f"{len(self.failed) - NAMED:,} more shards could not be read")
        return told


def join_truth(connection: duckdb.DuckDBPyConnection, truth: Truth, output: str, images: pa.Table) -> tuple[Matched, Coverage]:
    """The truth of the rows of an output, left as DuckDB's table `truth`; and what it covers.

    Args:
        images: `images_of(connection)`.

    Raises:
        NothingMatches: it is of none of the rows.
        UserError: it says two things of one image.
    """
    matched = match(truth.said, images, truth.where)
    require_match(matched, truth, f"--output {output}", images)
    connection.register("truth", matched.truth)
    num_with, num_without, num_rejected_with, without = connection.sql(_COUNTS).fetchall()[0]
    num_copies, copies = connection.sql(_COPIES).fetchall()[0]
    strange = matched.truth.filter(matched.truth["strange"])
    by_class = {name: (readable, every) for name, readable, every in connection.sql(_CLASSES).fetchall()}
    examples = {"without": without, "unmatched": first_example(matched.unmatched), "ambiguous": first_example(matched.ambiguous),
                "strange": first_example(strange), "copies": " and ".join((copies or [])[:2])}
    return matched, Coverage(num_with, num_without, dict(connection.sql(_REJECTED).fetchall()), num_rejected_with, len(matched.unmatched),
                             len(matched.ambiguous), len(strange), num_copies, by_class, _failed(connection) | truth.failed,
                             _spellings(truth), {name: text for name, text in examples.items() if text})


def count_covered(matched: Matched, truth: Truth, images: pa.Table, num_of_class: dict[str, int]) -> Coverage:
    """What a truth covers of the images of an input, before any of them is decoded."""
    without = images.join(matched.truth.select(["shard", "key"]), ["shard", "key"], join_type="left anti").sort_by([("shard", "ascending"), ("key", "ascending")])
    strange = matched.truth.filter(matched.truth["strange"])
    examples = {"without": f"{without['key'][0]} in {without['shard'][0]}" if len(without) else "", "unmatched": first_example(matched.unmatched),
                "ambiguous": first_example(matched.ambiguous), "strange": first_example(strange)}
    return Coverage(len(images) - len(without), len(without), num_unmatched=len(matched.unmatched), num_ambiguous=len(matched.ambiguous),
                    num_strange=len(strange), by_class={name: (number, number) for name, number in num_of_class.items() if number}, failed=truth.failed,
                    spellings=_spellings(truth), examples={name: text for name, text in examples.items() if text})


def list_images(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """The keys of all rows, a table of `IMAGES`."""
    return connection.sql("SELECT DISTINCT shard, key FROM labels ORDER BY shard, key").to_arrow_table().cast(IMAGES)


def require_match(matched: Matched, truth: Truth, place: str, images: pa.Table) -> None:
    """Raise NothingMatches, with an example of each side, if no image has a truth."""
    if len(matched.truth):
        return
    ours = f"{place} has, say, {images['key'][0]} in {images['shard'][0]}" if len(images) else f"{place} has no images"
    fit = " (they fit several images each)" if len(matched.ambiguous) else ""
    raise NothingMatches(f"--truth {truth.where}: none of its {len(truth.said):,} truths is of an image{fit}: it names, say, "
                         f"{first_example(truth.said)}; {ours}.")


def describe_odd_names(names: Iterable[str], where: str) -> list[str]:
    """What is odd about the names of classes, in sentences."""
    names = list(names)
    told = [f"{' and '.join(repr(name) for name in group)} are {len(group)} classes, and differ only by case or blanks" for group in find_alike(names)]
    parts = sorted({name for name in names if name.lower() in PARTS})
    if where == "folder" and parts:
        told.append(f"{' and '.join(map(repr, parts))}: the name{'s' if len(parts) > 1 else ''} of parts of a data set, not of classes; put each class's "
                    "images into a folder of its own")
    return told


def first_few(names: list[str], number: int = FEW) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:number]) + (f" and {len(names) - number:,} more" if len(names) > number else "")


def describe_classes(numbers: dict[str, int]) -> str:
    """The first ten classes, each with its number of images."""
    return f"{len(numbers):,}: {first_few([f'{name} {number:,}' for name, number in numbers.items()], NAMED)}"


def first_example(said: pa.Table) -> str:
    """The first of some truths: what it names, and where it stands."""
    if not len(said):
        return ""
    row = said.slice(0, 1).to_pylist()[0]
    name = row["name"] if "name" in row else row["key"]
    where = f", line {row['line']}" if row["line"] is not None else f" in {row['shard']}" if row["shard"] else ""
    return f"{name}{where}: {row['value']}"


def _spellings(truth: Truth) -> dict[str, list[str]]:
    return {name: sorted(others) for name, others in truth.spellings.items()}


def _failed(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """The shards that have no table, for they could not be labelled."""
    try:
        return dict(connection.sql(_FAILED).fetchall())
    except duckdb.Error:  # the ledger is only memory
        return {}
