"""What is made of the embeddings of a million made-up rows: neighbours, near-duplicates, the tables of another head."""

from pipeline.bench.embeddings.million import measure

__all__ = ["measure"]
