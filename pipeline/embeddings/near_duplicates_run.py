"""The search for near-duplicates of an output: the table, and the page of the largest groups.

In: an output. Out: `near_duplicates/<model_id>.parquet` and `.html` in the output; each replaces the one before.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.ask.pictures import Source, draw_pictures, make_pictures, render_pictures
from pipeline.embeddings.near_duplicates import Map, find_near_duplicates
from pipeline.embeddings.tables import list_tables
from pipeline.store import storage
from pipeline.store.explain import check_atomic_put, explaining_errors
from pipeline.store.lease import hold_lease

FOLDER = "near_duplicates"
GROUPS_SHOWN, PICTURES_SHOWN = 30, 8  # of the page


@dataclass(frozen=True)
class Found:
    """What a search found. `rows`: a table of `NEAR_DUPLICATES`. `page`: its URI."""

    model_id: str
    num_rows: int
    rows: pa.Table
    place: str
    page: str
    seconds: float

    @property
    def num_groups(self) -> int:
        """Groups of two images and more."""
        return pc.count_distinct(self.rows["group"]).as_py() or 0


def search(source: Source, threshold: float) -> Found:
    """Find the near-duplicates of an output, and write the table and the page.

    Raises:
        Busy: another search writes to this output.
        UserError: the output has no tables of the model, or cannot be written.
        Unreadable: a table has no embeddings.
    """
    begun, output = time.monotonic(), source.output
    check_atomic_put("--output", output)
    folder = storage.join(output, FOLDER)
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-near-duplicates"
    with hold_lease(folder, run_id, "--output", "another --output"), explaining_errors("--output", output):
        storage.remove(storage.join(folder, "_lists"))  # of a search that was killed
        tables = list_tables(output, source.model_id)
        with choosing_map() as run:
            rows = find_near_duplicates(tables, threshold, storage.join(folder, "_lists", run_id), run)
        metadata = {"model_id": source.model_id, "threshold": f"{threshold:g}", "num_rows": str(tables.num_rows)}
        place = storage.join(folder, source.model_id)
        buffer = io.BytesIO()
        pq.write_table(rows.replace_schema_metadata({"near_duplicates": json.dumps(metadata)}), buffer,
                       compression="zstd")
        storage.put_whole(place + ".parquet", buffer.getvalue())
        found = Found(source.model_id, tables.num_rows, rows, place + ".parquet", place + ".html",
                      time.monotonic() - begun)
        storage.put_whole(found.page, draw_page(found, threshold, source).encode())
    return found


@contextmanager
def choosing_map() -> Iterator[Map]:
    """A map that runs tasks at once: on the cluster at RAY_ADDRESS, or else in threads of this process."""
    if os.environ.get("RAY_ADDRESS"):
        from pipeline.actors.tasks import connected_map

        with connected_map() as run:
            yield run
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        def run_in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
            return pool.map(function, items)

        yield run_in_threads


def draw_page(found: Found, threshold: float, source: Source) -> str:
    """The page: the largest groups, with pictures side by side."""
    counts = found.rows["group"].value_counts().to_pylist()
    largest = sorted(counts, key=lambda entry: (-entry["counts"], entry["values"]))[:GROUPS_SHOWN]
    groups, pictures = [], []
    for entry in largest:
        members = found.rows.filter(pc.equal(found.rows["group"], entry["values"]))
        members = members.sort_by([("keep", "descending"), ("cosine", "descending")]).slice(0, PICTURES_SHOWN)
        names = [name for name in members.column_names if name != "group"]
        shown = make_pictures(names, zip(*(members[name].to_pylist() for name in names), strict=True))
        pictures += shown
        groups.append((f"Group {entry['values']}: {entry['counts']:,} images", shown))
    draw_pictures(pictures, source)
    notes = [f"{len(found.rows):,} of {found.num_rows:,} images are in {found.num_groups:,} groups of images whose "
             f"embeddings have a cosine of at least {threshold:g}, directly or through others of the group."]
    if found.num_groups > GROUPS_SHOWN:
        notes.append(f"The {GROUPS_SHOWN} largest groups are shown, up to {PICTURES_SHOWN} images each.")
    return render_pictures(f"Near-duplicates of {found.model_id}", notes, groups)
