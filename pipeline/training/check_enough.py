"""The check that there are enough images to train on. It runs before Ray starts.

In: the labelled shards; the share of the images that is held out. Out: nothing, or one sentence about what is too few.
The bytes of an image decide whether it is held out. So of a small input every image is read. For a large input the
expected number is used.
"""

from __future__ import annotations

import hashlib
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UserError
from pipeline.formats.samples import ShardUnreadable
from pipeline.inputs.read import Inputs
from pipeline.store.retry import Replaced, describe_error
from pipeline.truth.holdout import is_held_out

# The largest input whose images are all read: that takes seconds.
MAX_IMAGES_READ, MAX_BYTES_READ = 2000, 2**28


def check_enough(shards: pa.Table, inputs: Inputs, holdout: float, batch_size: int, classes: pa.Table) -> None:
    """Raise UserError if a batch is larger than the images to train on, or if `holdout` takes all images of a class.

    Args:
        shards: a table of `LABELLED_SHARDS`.
        holdout: the share of their images that is held out; 0: none.
    """
    num_of_class = Counter(target for targets in shards["targets"].to_pylist() for target in targets)
    num_images = num_of_class.total()
    if batch_size > num_images:
        raise UserError(f"--batch-size {batch_size}: --input has {num_images:,} images with a truth.")
    is_small = num_images <= MAX_IMAGES_READ and pc.sum(shards["size"]).as_py() <= MAX_BYTES_READ
    is_exact = holdout > 0 and is_small
    num_fitted = count_fitted(shards, inputs, holdout) if is_exact else num_of_class
    number = num_fitted.total() if is_exact else int(num_images * (1 - holdout))
    if batch_size > number:
        raise UserError(f"--batch-size {batch_size}: of {num_images:,} images "
                        f"{'' if is_exact else 'about '}{number:,} are left to train on (--holdout {holdout:g}).")
    lost = [classes["label"][target].as_py() for target in sorted(num_of_class) if not num_fitted[target]]
    if lost:
        others = f", nor of {len(lost) - 1} other classes" if len(lost) > 1 else ""
        raise UserError(f"--holdout {holdout:g}: of class {lost[0]!r} no image is left to train on{others}; add "
                        "images, or judge by others with --validation.")


def count_fitted(shards: pa.Table, inputs: Inputs, holdout: float) -> Counter[int]:
    """For each class the number of images that are not held out. Images are read but not decoded.

    Raises:
        UserError: a shard cannot be read.
    """
    num_fitted: Counter[int] = Counter()
    for row in shards.to_pylist():
        target_of = dict(zip(row["keys"], row["targets"], strict=True))
        try:
            with inputs.open(row["uri"], row["group"]) as (samples, _):
                num_fitted.update(target_of[sample.key] for sample in samples if sample.key in target_of
                                  and not sample.error
                                  and not is_held_out(hashlib.sha256(sample.encoded).hexdigest(), holdout))
        except (ShardUnreadable, Replaced):
            continue  # the training reports these shards
        except OSError as error:
            raise UserError(f"--input: {row['shard']}: {describe_error(error)}.") from error
    return num_fitted
