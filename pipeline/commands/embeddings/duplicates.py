"""`label-images duplicates`: groups of images that are nearly the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval
from cyclopts import Parameter

from pipeline.commands.extras import check_installed
from pipeline.commands.flags import NO_INPUT_FLAGS, AsTheRun, Model, Output, choose_inputs
from pipeline.commands.json_summary import SummaryPlace, writing_summary
from pipeline.config import check_uri
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.embeddings.near_duplicates_run import Found


def duplicates(
    *,
    output: Output,
    model: Model = None,
    threshold: Annotated[
        float,
        Interval(gt=0, le=1),
        Parameter(help="Images are alike from this cosine of their whitened embeddings on. Less finds more."),
    ] = 0.7,
    reading: AsTheRun = NO_INPUT_FLAGS,
    summary: SummaryPlace = None,
) -> int:
    """Find images that are nearly the same, by the embeddings in the tables.

    It writes near_duplicates/MODEL_ID.parquet in the output: group, shard, index, key, sha256, cosine and which image
    of the group to keep; and a page with the pictures of the largest groups, which are read again from the shards.

    ```
    label-images duplicates --output tables/
    label-images duplicates --output s3://bucket/tables --threshold 0.8
    ```

    Needs no GPU. With RAY_ADDRESS it runs on that cluster, else on the processors of this machine. For the same bytes
    alone, label-images query duplicates is faster.

    Exit status: 0 done, 2 wrong usage, 4 another search writes to the output.
    """
    check_installed("duplicates", scipy="index")
    from pipeline.ask.pictures import Source
    from pipeline.embeddings.near_duplicates_run import search
    from pipeline.embeddings.stream import Unreadable
    from pipeline.store.uris import canonical_uri
    from pipeline.tables.history import read_settings
    from pipeline.tables.owner.models import only_model

    with writing_summary(summary) as write:
        check_uri("output", output)
        output = canonical_uri(output)
        inputs, format = choose_inputs(reading, read_settings(output, model))
        source = Source(output, model or only_model(output), inputs, format)
        try:
            found = search(source, threshold)
        except Unreadable as error:
            raise UserError(f"--output {output}: {error}; it was labelled with --output-embeddings false.") from error
        write({"model_id": found.model_id, "threshold": threshold, "num_rows": found.num_rows,
               "num_groups": found.num_groups, "num_near_duplicates": len(found.rows), "seconds": found.seconds,
               "exit_code": 0})
        print_found(found)
    return 0


def print_found(found: Found) -> None:
    """Print how many images are alike, and where the table is."""
    num_more = len(found.rows) - found.num_groups
    print(f"images    {found.num_rows:,} in {found.seconds:.1f} s")
    print(f"groups    {found.num_groups:,} of images that are alike; {num_more:,} images beside those to keep")
    print(f"table     {found.place}")
    print(f"page      {found.page}")
