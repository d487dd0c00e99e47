"""A night of a billion images in simulation."""

from pipeline.bench.night.plans import measure

__all__ = ["measure"]
