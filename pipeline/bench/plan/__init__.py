"""Planning a night of up to a million shards, against a store that answers from arithmetic."""

from pipeline.bench.plan.many_shards import measure

__all__ = ["measure"]
