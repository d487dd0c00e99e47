"""What the log of a lake table lacks when a run begins, and its commit when the run ends.

In: the plan, the rows of the run in the ledger. Out: one snapshot, which has the tables of this run, those that a
killed run left, and no longer those of shards that are gone or have changed. A run that is killed before its commit
loses nothing: the next one finds its files.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from pipeline.config import Config
from pipeline.parse import parse_keep
from pipeline.tables import ledger
from pipeline.tables.label_files import read_footers
from pipeline.tables.lake import log


@dataclass(frozen=True)
class Standing:
    """What the log lacks before anything is labelled.

    `unlisted`: `FILES`, finished tables that no snapshot has yet. `gone`: paths of tables whose shards are gone.
    """

    unlisted: pa.Table
    gone: list[str]

    def commit(self, config: Config, model_id: str, run_id: str) -> None:
        """Commit this, and what the run has labelled.

        Raises:
            OSError: the store or the catalog cannot be reached, or others change the log all the time.
        """
        labelled = {row.file: row for row in ledger.read_shards(config.output, run_id, [])
                    if row.status == "committed" and row.model_id == model_id}
        rows = [{"path": row.file, "size": row.file_size, "etag": row.file_etag, "num_images": row.num_images}
                for row in labelled.values()]
        rows += [{"path": row["file"], "size": row["file_size"], "etag": row["file_etag"],
                  "num_images": row["num_images"]}
                 for row in read_footers(config.output, model_id, self.unlisted).to_pylist()
                 if row["file"] not in labelled]
        table = log.LakeTable(config.output, model_id, config.table)
        log.commit(table, log.Change(pa.Table.from_pylist(rows, log.LISTED), self.gone),
                   log.table_schema(parse_keep(config.keep)), run_id)
