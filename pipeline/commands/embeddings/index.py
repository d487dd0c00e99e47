"""`label-images index`: an index over the embeddings, for quick neighbours."""

from __future__ import annotations

import dataclasses
import time

from pipeline.commands.extras import check_installed
from pipeline.commands.flags import Model, Output
from pipeline.commands.json_summary import SummaryPlace, writing_summary
from pipeline.config import check_uri
from pipeline.errors import UserError


def index(*, output: Output, model: Model = None, summary: SummaryPlace = None) -> int:
    """Make or update an index over the embeddings, for quick neighbours.

    Only new and changed tables are read. label-images query neighbours uses the index by itself, and compares the rows
    of tables that the index does not know one by one. It lies in the output, in index/MODEL_ID, and has 3.1 GB a
    million images.

    ```
    label-images index --output tables/
    label-images query --output tables/ neighbours --set key=n02492660_howler_monkey
    ```

    Exit status: 0 done, 2 wrong usage, 4 another process updates this index.
    """
    check_installed("index", faiss="index")
    from pipeline.embeddings.index import index_folder, update_index
    from pipeline.embeddings.stream import Unreadable
    from pipeline.embeddings.tables import list_tables
    from pipeline.store.explain import check_atomic_put, explaining_errors
    from pipeline.store.lease import hold_lease
    from pipeline.store.uris import canonical_uri
    from pipeline.tables.owner.models import only_model

    begun = time.monotonic()
    with writing_summary(summary) as write:
        check_uri("output", output)
        output = canonical_uri(output)
        check_atomic_put("--output", output)
        model_id = model or only_model(output)
        folder = index_folder(output, model_id)
        with hold_lease(folder, "index", "--output", "another --output") as lease:
            try:
                with explaining_errors("--output", output):
                    done = update_index(list_tables(output, model_id), folder, lease.check)
            except Unreadable as error:
                raise UserError(
                    f"--output {output}: {error}; it was labelled with --output-embeddings false."
                ) from error
        seconds = time.monotonic() - begun
        write({"model_id": model_id, **dataclasses.asdict(done), "seconds": seconds, "exit_code": 0})
        print(f"index     {done.num_rows:,} images in {done.num_segments:,} segments, {done.num_bytes / 1e6:,.1f} MB; "
              f"{done.num_new:,} images were read, {seconds:.1f} s")
        print(f"folder    {folder}")
    return 0
