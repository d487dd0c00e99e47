"""`label-images verify`: prove that each image has exactly one row."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from pipeline.commands.flags import NO_INPUT_FLAGS, AsTheRun, Input, Model, Output, choose_inputs
from pipeline.commands.json_summary import SummaryPlace, writing_summary

if TYPE_CHECKING:
    from pipeline.ask.verify import Proof


def verify(*, input: Input, output: Output, model: Model = None, all: bool = False,
           sample: Annotated[float, Interval(gt=0, le=1)] = 1.0, reading: AsTheRun = NO_INPUT_FLAGS,
           summary: SummaryPlace = None) -> int:
    """Prove that each image has exactly one row.

    Rows that are missing, double or foreign are listed. What is proven is kept in the table proofs of the output, with
    the versions of the shard and of its table: the next proof reads only what is new or changed.

    ```
    label-images verify --input s3://bucket/shards --output s3://bucket/tables
    label-images verify --input s3://bucket/shards --output s3://bucket/tables --all
    ```

    Needs no GPU. With RAY_ADDRESS it runs on that cluster, else on the processors of this machine.

    Exit status: 0 proven, 1 something is wrong, 2 wrong usage.

    Args:
        all: Read everything again, also what is proven: finds bytes that changed without a new version.
        sample: Of the shards to be read only this share, always the same ones. The others stay unproven.
    """
    from pipeline.ask import verify as proving
    from pipeline.tables.history import read_settings

    with writing_summary(summary) as write:
        inputs, format = choose_inputs(reading, read_settings(output, model))
        proof = proving.verify(input, output, model, inputs, format, proving.Which(all, sample), sys.stderr)
        status = 1 if proof.problems else 0
        write(vars(proof) | {"left_out": proof.left_out.rows(), "exit_code": status})
        print_proof(proof)
    return status


def print_proof(proof: Proof) -> None:
    """Print what is wrong, and the counts."""
    for problem in proof.problems:
        print(problem)
    for sentence in proof.left_out.sentences():
        print(f"left out: {sentence}")
    print(
        f"{proof.num_shards:,} shards, {proof.num_samples:,} samples, {proof.num_rows:,} rows "
        f"({proof.rejected.total():,} rejected): {proof.num_missing:,} missing, {proof.num_double:,} double, "
        f"{proof.num_foreign:,} foreign"
    )
    if proof.num_known:
        print(f"{proof.num_known:,} shards of these versions were proven before; --all reads them again")
    if proof.unrecorded:
        print(f"note: the table proofs is not written, so the next proof reads all again: {proof.unrecorded}")
    if proof.num_unproven:
        print(f"{proof.num_unproven:,} shards are not proven: --sample left them out")
    else:
        print(f"digest {proof.digest}")
