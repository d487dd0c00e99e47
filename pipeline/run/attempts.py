"""The pending shards of a run -> finished tables, in up to three attempts.

In: a connected Ray, the chain of stages, the pending shards. Out: a filled `Summary`; tables and the ledger of
shards are written on the way.
Not here: how Ray is reached and what is checked before (`execute`).
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.actors.reports import iterate_reports
from pipeline.config import Config
from pipeline.errors import JobError, UserError
from pipeline.run.progress import Progress
from pipeline.run.summary import Summary
from pipeline.run.tally import Tally
from pipeline.stages.reports import read_reports
from pipeline.stop import Stop
from pipeline.store.lease import Lease
from pipeline.store.retry import describe_error

if TYPE_CHECKING:
    from pipeline.actors.nodes import Growth, Node
    from pipeline.actors.pools import Pools
    from pipeline.run.metrics import Metrics

USER_ERROR = "pipeline.errors.UserError: "  # the last line of a traceback of such an error begins so
AWAY_S = 120.0  # without an answer from the store of the output, after which the run ends
ATTEMPTS = 3  # of a shard in a run; a shard that still kills its process, or still fails, waits for the next run


@dataclass(frozen=True)
class Context:
    """What all steps of a run need.

    `lease`: None without one. `stream`: for lines to the user. `stop`: the request to end.
    """

    config: Config
    summary: Summary
    lease: Lease | None
    stream: TextIO
    stop: Stop


@dataclass(frozen=True)
class Chain:
    """What an attempt is made of.

    `device`: `cuda` or `cpu`. `find_nodes`: the nodes that there are now; waits for a first one. `build`: the
    dataset of reports for pools, the shards that are left, and the places of the actors.
    """

    device: str
    find_nodes: Callable[[], list[Node]]
    build: Callable[[Pools, pa.Table, dict[str, Any]], Any]


def run_attempts(context: Context, chain: Chain, pending: pa.Table, metrics: Metrics,
                 leave: Callable[[], object]) -> None:
    """Label what is pending in up to `ATTEMPTS` attempts, each with pools for the nodes that there are.

    When the cluster has changed meanwhile, an attempt is broken off, and does not count.

    Args:
        leave: called when no attempt is under way any more, before the record of the run is written.
    """
    from pipeline.actors.places import NodesGone
    pending = pending.append_column("number", pa.array(np.arange(len(pending), dtype=np.int32)))
    summary, start_s = context.summary, time.monotonic()
    tally = Tally(context.config.output, summary, pa.concat_arrays(pending["path"].chunks), metrics.end,
                  context.config.partition)
    attempt, has_changed = 1, False
    try:
        while attempt <= ATTEMPTS and len(left := tally.list_left()):
            tally.last_attempt = attempt == ATTEMPTS
            shards = pending if len(left) == len(pending) else pending.take(pa.array(left))
            try:
                has_changed = _run_attempt(context, chain, shards, tally, metrics, attempt, has_changed)
            except NodesGone:
                has_changed = True
                continue
            if not summary.unrecorded:
                with summary.remembering_errors():
                    tally.settle(last=tally.last_attempt and not has_changed)
            if summary.unrecorded:
                break
            if not has_changed:  # shards that were in hand when the cluster changed are labelled again
                attempt += 1
    finally:
        seconds = time.monotonic() - start_s
        leave()
        with summary.trying_once():
            tally.close()
        summary.images_per_s = summary.counts.num_images / seconds


def _run_attempt(context: Context, chain: Chain, shards: pa.Table, tally: Tally, metrics: Metrics, attempt: int,
                 has_changed: bool) -> bool:
    """Choose pools for the nodes that there are, reserve their places, and label the shards once.

    Args:
        attempt: its number, from 1.
        has_changed: the cluster has changed, so the attempt before was broken off.

    Returns:
        Whether this attempt was broken off because the cluster has changed.

    Raises:
        NodesGone: a node is gone since the pools were chosen.
    """
    from pipeline.actors.nodes import Growth, count_cpus, count_gpus
    from pipeline.actors.places import reserve_places
    from pipeline.actors.pools import choose_pools
    nodes = chain.find_nodes()
    pools = choose_pools(context.config, nodes, chain.device)
    tally.label_cpus = pools.label_threads if chain.device == "cpu" else 0
    tally.label_gpus = pools.label_gpus
    context.summary.hardware = (f"{len(nodes)} nodes, {count_cpus(nodes):g} CPUs, {count_gpus(nodes)} GPUs "
                                f"({platform.machine()})")
    if has_changed:
        context.stream.write(f"the cluster has changed, to {len(nodes)} nodes with work: the pools are made anew\n")
    elif attempt > 1:
        context.stream.write(f"attempt {attempt} of {ATTEMPTS} for {len(shards):,} shards, one at a time\n")
    if attempt > 1:
        pools = dataclasses.replace(pools, shards_at_once=1, task_bytes=0, blocks_a_commit=1)
    with context.summary.counting_held(count_cpus(nodes), count_gpus(nodes)), \
            reserve_places(pools, nodes, context.stop) as places:
        progress = Progress(context.stream, len(shards), pc.sum(shards["size"]).as_py())
        return label_once(context, chain.build(pools, shards, places), tally, metrics, progress, Growth(nodes))


def label_once(context: Context, dataset: Any, tally: Tally, metrics: Metrics, progress: Progress,
               growth: Growth) -> bool:
    """Label what the dataset holds, once. Shards that a dead process had in hand are missing in the reports.

    Returns:
        Whether the attempt was broken off because the cluster has changed.
    """
    try:
        for table in iterate_reports(dataset):
            for report in read_reports(table) if table is not None else ():
                progress.add(report)
                metrics.add(report)
                tally.add(report)
            progress.show()
            context.stop.check()
            if context.lease:
                context.lease.check()
                if context.lease.away_s() > AWAY_S:  # each shard that is left would wait for the store in vain
                    tally.reason = f"the store of --output has taken nothing for {AWAY_S:.0f} s"
                    tally.summary.unrecorded = tally.reason
                    return False
            if growth.has_changed():
                return True
    except JobError:
        raise
    except Exception as error:  # of Ray: a pool that cannot start, a node that is gone
        tally.reason = _describe_ray_error(error)
        if USER_ERROR in tally.reason:  # of an actor that cannot start: no other attempt can start it either
            raise UserError(tally.reason.partition(USER_ERROR)[2].partition(" | ")[0]) from error
    finally:
        progress.show(last=True)
    return False


def _describe_ray_error(error: Exception) -> str:
    """An error of Ray in a line.

    If it carries the traceback of an actor, the last lines of the traceback come first.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ^~")]
    if len(lines) < 6:
        return describe_error(error)
    return f"{type(error).__name__}: {' | '.join(reversed(lines[-3:]))[:600]}"
