"""The coverage of a truth: how many images have a truth, how many have none, and other facts to know before figures.

In: the truth, and the images of an output (in DuckDB) or of an input. Out: a `Coverage` and its sentences, the same for
every job.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from pipeline.errors import JobError
from pipeline.model.spelling import DATASET_PARTS, find_alike, first_few
from pipeline.truth.matching import IMAGES, Matched, match
from pipeline.truth.sources import Truth

MAX_NAMED = 10  # classes in a sentence; sentences about classes; sentences about shards
_COUNTS = """
SELECT count(*) FILTER (error IS NULL AND value IS NOT NULL), count(*) FILTER (error IS NULL AND value IS NULL),
       count(*) FILTER (error IS NOT NULL AND value IS NOT NULL),
       arg_min(labels.key || ' in ' || labels.shard, (labels.shard, labels.index))
           FILTER (error IS NULL AND value IS NULL)
FROM labels LEFT JOIN truth USING (shard, key)"""
_REJECTED = """
SELECT error, count(*) FROM labels WHERE error IS NOT NULL GROUP BY error ORDER BY count(*) DESC, error"""
_COPIES = """
SELECT count(*), arg_min(keys, first) FROM (
    SELECT list(key ORDER BY shard, index) AS keys, min(shard || key) AS first
    FROM labels JOIN truth USING (shard, key)
    WHERE error IS NULL AND NOT strange GROUP BY sha256 HAVING count(DISTINCT value) > 1)"""
_CLASSES = """
SELECT value, count(*) FILTER (error IS NULL), count(*)
FROM labels JOIN truth USING (shard, key) WHERE NOT strange GROUP BY value"""
_FAILED = """
SELECT shard, arg_max(failure, labelled_at) FROM shards ANTI JOIN (SELECT DISTINCT shard FROM labels) USING (shard)
GROUP BY shard HAVING arg_max(status, labelled_at) = 'failed' ORDER BY shard"""


class NothingMatches(JobError):
    """No image has a truth."""

    exit_code = 1


@dataclass
class Coverage:
    """Counts of images and truths. The images are rows of the tables, or samples of the input.

    Attributes:
        num_with: readable images with a truth.
        num_without: readable images without a truth.
        rejected: rejected images by reason code.
        num_rejected_with: rejected images with a truth.
        num_unmatched: truths of no image.
        num_ambiguous: truths that fit several images or contradict each other.
        num_strange: truths with a value that their source does not list as a class.
        num_copies: images, by SHA-256, that are in several classes.
        by_class: for each class its readable images and all its images.
        failed: for each shard that could not be read the reason.
        spellings: for each class the texts that mean it and differ from its name.
        examples: an example for the counts `without`, `unmatched`, `ambiguous`, `strange`, `copies`.
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
        """All images."""
        return self.num_with + self.num_without + sum(self.rejected.values())

    def sentences(self) -> list[str]:
        """For a person: first the counts of images, then a sentence for each fact that is not zero."""
        by_reason = ", ".join(f"{reason} {number:,}" for reason, number in self.rejected.items())
        details = f" ({by_reason}), of which {self.num_rejected_with:,} have a truth" if by_reason else ""
        counts = (f"{self.num_with:,} with a truth, {self.num_without:,} without{self._such_as('without')}, "
                  f"{sum(self.rejected.values()):,} rejected{details}")
        sentences = [f"{self.num_images:,} images: {counts}"]
        ambiguous = "truths that fit several images or contradict each other, and so count for none"
        strange = "truths that name none of the classes which their own place lists"
        for number, name, words in ((self.num_unmatched, "unmatched", "truths that have no image"),
                                    (self.num_ambiguous, "ambiguous", ambiguous),
                                    (self.num_strange, "strange", strange),
                                    (self.num_copies, "copies", "images (by SHA-256) that are in several classes")):
            if number:
                sentences.append(f"{words}: {number:,}{self._such_as(name)}")
        unreadable = sorted(name for name, (readable, total) in self.by_class.items() if total and not readable)
        if unreadable:
            sentences.append(f"classes that have images, but none that can be read: {first_few(unreadable)}")
        sentences += [f"one class is spelled in several ways: {name!r}, {', '.join(map(repr, others))}"
                      for name, others in sorted(self.spellings.items())[:MAX_NAMED]]
        failed = sorted(self.failed.items())[:MAX_NAMED]
        sentences += [f"{shard} could not be read: {reason}" for shard, reason in failed]
        if len(self.failed) > MAX_NAMED:
            sentences.append(f"{len(self.failed) - MAX_NAMED:,} more shards could not be read")
        return sentences

    def _such_as(self, name: str) -> str:
        return f" (such as {self.examples[name]})" if self.examples.get(name) else ""


def join_truth(connection: duckdb.DuckDBPyConnection, truth: Truth, output: str,
               images: pa.Table) -> tuple[Matched, Coverage]:
    """Match the truth with the rows of an output. DuckDB gets the matched truth as its table `truth`.

    Args:
        images: `list_images(connection)`.

    Raises:
        NothingMatches: no row has a truth.
        UserError: one image has two different truths.
    """
    matched = match(truth.given, images, truth.where)
    require_match(matched, truth, f"--output {output}", images)
    connection.register("truth", matched.truth)
    num_with, num_without, num_rejected_with, without = connection.sql(_COUNTS).fetchall()[0]
    num_copies, copies = connection.sql(_COPIES).fetchall()[0]
    by_class = {name: (readable, total) for name, readable, total in connection.sql(_CLASSES).fetchall()}
    examples = {"without": without, **_match_examples(matched), "copies": " and ".join((copies or [])[:2])}
    return matched, Coverage(
        num_with, num_without, dict(connection.sql(_REJECTED).fetchall()), num_rejected_with, len(matched.unmatched),
        len(matched.ambiguous), len(_strange_rows(matched)), num_copies, by_class,
        _read_failed_shards(connection) | truth.failed, _sort_spellings(truth),
        {name: text for name, text in examples.items() if text})


def count_covered(matched: Matched, truth: Truth, images: pa.Table, num_of_class: dict[str, int]) -> Coverage:
    """The coverage of the images of an input, before any image is decoded: none counts as rejected yet."""
    without = images.join(matched.truth.select(["shard", "key"]), ["shard", "key"], join_type="left anti")
    without = without.sort_by([("shard", "ascending"), ("key", "ascending")])
    example = f"{without['key'][0]} in {without['shard'][0]}" if len(without) else ""
    examples = {"without": example, **_match_examples(matched)}
    return Coverage(
        len(images) - len(without), len(without), num_unmatched=len(matched.unmatched),
        num_ambiguous=len(matched.ambiguous), num_strange=len(_strange_rows(matched)),
        by_class={name: (number, number) for name, number in num_of_class.items() if number}, failed=truth.failed,
        spellings=_sort_spellings(truth), examples={name: text for name, text in examples.items() if text})


def list_images(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """The keys of all rows, a table of `IMAGES`."""
    return connection.sql("SELECT DISTINCT shard, key FROM labels ORDER BY shard, key").to_arrow_table().cast(IMAGES)


def require_match(matched: Matched, truth: Truth, place: str, images: pa.Table) -> None:
    """Raise NothingMatches, with an example of each side, if no image has a truth. `place` is that of the images."""
    if len(matched.truth):
        return
    image = f"{place} has, say, {images['key'][0]} in {images['shard'][0]}" if len(images) else f"{place} has no images"
    reason = " (they fit several images each)" if len(matched.ambiguous) else ""
    raise NothingMatches(f"--truth {truth.where}: none of its {len(truth.given):,} truths is of an image{reason}: it "
                         f"names, say, {first_example(truth.given)}; {image}.")


def describe_odd_names(names: Iterable[str], where: str) -> list[str]:
    """Sentences about names of classes that look like mistakes."""
    names = list(names)
    sentences = [f"{' and '.join(map(repr, group))} are {len(group)} classes, and differ only by case or blanks"
                 for group in find_alike(names)]
    parts = sorted({name for name in names if name.lower() in DATASET_PARTS})
    if where == "folder" and parts:
        sentences.append(f"{' and '.join(map(repr, parts))}: the name{'s' if len(parts) > 1 else ''} of parts of a "
                         "data set, not of classes; put each class's images into a folder of its own")
    return sentences


def describe_classes(num_of_class: dict[str, int]) -> str:
    """The number of classes, and the first ten, each with its number of images."""
    names = [f"{name} {number:,}" for name, number in num_of_class.items()]
    return f"{len(num_of_class):,}: {first_few(names, MAX_NAMED)}"


def first_example(truths: pa.Table) -> str:
    """The first row of `GIVEN_TRUTHS` or `IMAGE_TRUTHS` in words: image, place and value; "" if there is no row."""
    if not len(truths):
        return ""
    row = truths.slice(0, 1).to_pylist()[0]
    name = row["name"] if "name" in row else row["key"]
    place = f", line {row['line']}" if row["line"] is not None else f" in {row['shard']}" if row["shard"] else ""
    return f"{name}{place}: {row['value']}"


def _match_examples(matched: Matched) -> dict[str, str]:
    return {"unmatched": first_example(matched.unmatched), "ambiguous": first_example(matched.ambiguous),
            "strange": first_example(_strange_rows(matched))}


def _strange_rows(matched: Matched) -> pa.Table:
    return matched.truth.filter(matched.truth["strange"])


def _sort_spellings(truth: Truth) -> dict[str, list[str]]:
    return {name: sorted(others) for name, others in truth.spellings.items()}


def _read_failed_shards(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """The shards without a table, each with the reason; from the ledger, so empty if the ledger is lost."""
    try:
        return dict(connection.sql(_FAILED).fetchall())
    except duckdb.Error:
        return {}
