"""`label-images verify`: prove that each image has exactly one row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.commands.flags import NO_INPUT_FLAGS, AsTheRun, Input, Model, Output, choose_inputs
from pipeline.commands.json_summary import SummaryPlace, writing_summary

if TYPE_CHECKING:
    from pipeline.ask.verify import Proof


def verify(*, input: Input, output: Output, model: Model = None, reading: AsTheRun = NO_INPUT_FLAGS,
           summary: SummaryPlace = None) -> int:
    """Prove that each image has exactly one row.

    Rows that are missing, double or foreign are listed.

    ```
    label-images verify --input s3://bucket/shards --output s3://bucket/tables
    ```

    Exit status: 0 proven, 1 something is wrong, 2 wrong usage.
    """
    from pipeline.ask import verify as proving
    from pipeline.tables.history import read_settings

    with writing_summary(summary) as write:
        inputs, format = choose_inputs(reading, read_settings(output, model))
        proof = proving.verify(input, output, model, inputs, format)
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
    print(f"digest {proof.digest}")
