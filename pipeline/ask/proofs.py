"""The table `proofs` of an output: which version of a shard was proven against which version of its table.

In: parts without a problem. Out: files `<output>/proofs/<name>.parquet`, and their rows again. So the next proof reads
only what is new or changed, and a proof that was broken off is continued. What is proven once more has no new row.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ask.compare import Part
from pipeline.formats.left_out import LEFT_OUT, LeftOut
from pipeline.store import storage
from pipeline.store.read_parquet import DAMAGE, read_table
from pipeline.tables import ledger
from pipeline.tables.counts import REJECTED
from pipeline.tables.label_files import READS_AT_ONCE

PROOFS = pa.schema([
    ("model_id", pa.string()), ("shard", pa.string()), ("source_size", pa.int64()), ("source_etag", pa.string()),
    ("file_etag", pa.string()), ("num_samples", pa.int64()), ("num_rows", pa.int64()), ("rejected", REJECTED),
    ("left_out", LEFT_OUT), ("digest", pa.string()), ("proven_at", pa.timestamp("us", "UTC"))])
VERSION = ("shard", "source_size", "source_etag", "file_etag")


def make_row(part: Part, model_id: str, listed: Mapping[str, Any], etag: str) -> dict[str, Any]:
    """The row of a part without a problem. `listed`: the row of the shard's listing. `etag`: of its table."""
    rejected = [{"error": error, "num_images": number} for error, number in part.rejected.most_common()]
    return {"model_id": model_id, "shard": part.shard, "source_size": listed["size"], "source_etag": listed["etag"],
            "file_etag": etag, "num_samples": part.num_samples, "num_rows": part.num_rows, "rejected": rejected,
            "left_out": part.left_out.rows(), "digest": part.digest, "proven_at": datetime.now(UTC)}


def make_part(row: Mapping[str, Any]) -> Part:
    """The part that a row was made of."""
    return Part(row["shard"], row["num_samples"], row["num_rows"], left_out=LeftOut(row["left_out"] or ()),
                rejected=Counter({one["error"]: one["num_images"] for one in row["rejected"] or ()}),
                digest=row["digest"])


def read_proofs(output: str, model_id: str, present: pa.Table) -> pa.Table:
    """The proofs of what is there now, as a table of `PROOFS`, one row a shard. A damaged file is passed over.

    Args:
        present: table with the columns `VERSION`.
    """
    def read(path: str) -> pa.Table:
        try:
            stored = read_table(storage.read_bytes(storage.join(output, "proofs", path)))
            return stored.select(PROOFS.names).cast(PROOFS)
        except (FileNotFoundError, *DAMAGE):
            return PROOFS.empty_table()

    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        rows = pa.concat_tables([PROOFS.empty_table(), *pool.map(read, ledger.list_table(output, "proofs"))])
    rows = rows.filter(pc.equal(rows["model_id"], model_id))
    numbered = rows.select(VERSION).append_column("row", pa.array(range(len(rows)), pa.int64()))
    known = numbered.join(present.select(VERSION), [*VERSION], join_type="left semi")
    last = known.group_by("shard").aggregate([("row", "max")])["row_max"]
    return rows.take(last.combine_chunks())


def write_proofs(output: str, rows: list[dict[str, Any]]) -> None:
    """Put rows as a new file. Raises the errors of the store."""
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    ledger.write(output, "proofs", name, rows, PROOFS)

