"""Are there enough images to train on? Asked before Ray starts.

In: the labelled shards, the share that is held out. Out: nothing, or one sentence that says of which there are too few.
Of a small input every image is read, since its bytes say whether it is held out; of a large one the expected number counts.
"""

from __future__ import annotations

import hashlib
from collections import Counter

import pyarrow as pa

from pipeline.errors import UserError
from pipeline.formats.tar import ShardUnreadable
from pipeline.inputs.find import Inputs
from pipeline.store import storage
from pipeline.store.retry import Replaced, describe_error
from pipeline.truth.holdout import is_held_out

READ, READ_BYTES = 2000, 2**28  # images at most, and of their shards, that are read to know exactly what is held out: seconds


def check_enough(shards: pa.Table, inputs: Inputs, holdout: float, batch_size: int, classes: pa.Table) -> None:
    """Raise UserError if a batch is larger than what is left to train on, or a class loses all of its images to `holdout`.

    Args:
        shards: as `crops.SHARDS`.
        holdout: the share of their images that is held out; 0: none.
    """
    there = Counter(target for targets in shards["targets"].to_pylist() for target in targets)
    num_images = there.total()
    if batch_size > num_images:
        raise UserError(f"--batch-size {batch_size}: --input has {num_images:,} images with a truth.")
    exact = 0 < holdout and num_images <= READ and _size(shards) <= READ_BYTES
    fitted = count_fitted(shards, inputs, holdout) if exact else there
    number = fitted.total() if exact else int(num_images * (1 - holdout))
    if batch_size > number:
        raise UserError(f"--batch-size {batch_size}: of {num_images:,} images {'' if exact else 'about '}{number:,} are left to train on "
                        f"(--holdout {holdout:g}).")
    lost = [classes["label"][target].as_py() for target in sorted(there) if not fitted[target]]
    if lost:
        others = f", nor of {len(lost) - 1} other classes" if len(lost) > 1 else ""
        raise UserError(f"--holdout {holdout:g}: of class {lost[0]!r} no image is left to train on{others}; add images, or judge by others "
                        "with --validation.")


def count_fitted(shards: pa.Table, inputs: Inputs, holdout: float) -> Counter[int]:
    """How many images of each class are trained on, by their bytes; whether they can be decoded is not looked at.

    Raises:
        UserError: a shard cannot be read.
    """
    fitted: Counter[int] = Counter()
    for row in shards.to_pylist():
        target_of = dict(zip(row["keys"], row["targets"], strict=True))
        try:
            with inputs.open(row["uri"], row["group"]) as (samples, _):
                fitted.update(target_of[sample.key] for sample in samples if sample.key in target_of and not sample.error
                              and not is_held_out(hashlib.sha256(sample.encoded).hexdigest(), holdout))
        except (ShardUnreadable, Replaced):
            continue  # the readers tell it
        except OSError as error:
            raise UserError(f"--input: {row['shard']}: {describe_error(error)}.") from error
    return fitted


def _size(shards: pa.Table) -> int:
    """Bytes of all shards. Raises UserError if one cannot be found."""
    try:
        return sum(row["group"]["size"] if row["group"] else storage.stat(row["uri"]).size for row in shards.select(["uri", "group"]).to_pylist())
    except Exception as error:  # each store has its own exceptions
        raise UserError(f"--input: {describe_error(error)}.") from error
