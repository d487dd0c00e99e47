"""What the log of a lake table lacks when a run begins, and its commit when the run ends.

In: the plan, the rows of the run in the ledger. Out: one snapshot, which has the tables of this run, those that a
killed run left, and no longer those of shards that are gone or have changed. A run that is killed before its commit
loses nothing: the next one finds its files.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

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
        labelled = ledger.read_committed(config.output, run_id, model_id)
        found = read_footers(config.output, model_id, self.unlisted).select(labelled.column_names)
        found = found.filter(pc.invert(pc.is_in(found["file"], labelled["file"].combine_chunks())))
        files = pa.concat_tables([found, labelled]).rename_columns(log.LISTED.names)
        log.commit(log.LakeTable(config.output, model_id, config.table), log.Change(files, self.gone),
                   log.table_schema(parse_keep(config.keep)), run_id)
