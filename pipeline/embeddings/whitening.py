"""Embeddings -> short vectors whose cosine tells images apart, whatever the weights.

In: the tables of a model. Out: a `Whitening`, and vectors of length 1.
The numbers of an embedding go up and down together: of the untrained network one direction has 97 % of their variance,
so that the cosine of any two photographs is above 0.99. So the mean is taken away, and the directions of most variance
are given the same variance. Method: PCA whitening (Jégou and Chum 2012, ECCV, "Negative evidences and co-occurrences in
image retrieval").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.embeddings.stream import to_unit
from pipeline.embeddings.tables import Table, Tables
from pipeline.model.spec import EMBEDDING_SIZE

Array = np.ndarray[Any, Any]
MOST_DIMENSIONS, ROWS_OF_DIMENSION = 128, 2  # fewer dimensions of few rows: else all rows would be far apart
SAMPLED_TABLES, SAMPLED_ROWS = 64, 20_000


@dataclass(frozen=True)
class Whitening:
    """`mean_D`: float32 [1536]. `map_DK`: float32 [1536, K]; K is 128, or less of few rows."""

    mean_D: Array
    map_DK: Array

    def __call__(self, embedding_ND: Array) -> Array:
        """Whitened embeddings of length 1, float32 [N, K]."""
        return to_unit((embedding_ND - self.mean_D) @ self.map_DK)

    def of_table(self, tables: Tables, table: Table) -> Iterator[tuple[Array, Array]]:
        """The numbers of the rows that have an embedding, int64 [N], and their vectors; some thousand at a time."""
        for row_N, embedding_ND in tables.embeddings(table):
            yield row_N, self(embedding_ND)


def learn_whitening(tables: Tables) -> tuple[Whitening, Array]:
    """The whitening of the tables of a model, and the whitened rows that it was learned from.

    These are some rows of some tables, spread over all. The same tables give the same rows.
    """
    rng = np.random.default_rng(0)
    places = np.unique(np.linspace(0, len(tables.tables) - 1, SAMPLED_TABLES).astype(int))
    chosen = [tables.tables[at] for at in places]
    share = SAMPLED_ROWS / max(1, sum(table.num_rows for table in chosen))
    sample = [embedding_ND[rng.random(len(embedding_ND)) < share]
              for table in chosen for _, embedding_ND in tables.embeddings(table)]
    sample_ND = np.concatenate([np.empty((0, EMBEDDING_SIZE), np.float32), *sample])
    number = min(MOST_DIMENSIONS, max(1, len(sample_ND) // ROWS_OF_DIMENSION))
    mean_D = sample_ND.mean(axis=0, dtype=np.float64) if len(sample_ND) else np.zeros(EMBEDDING_SIZE)
    centred_ND = sample_ND - mean_D
    variance_D, direction_DD = np.linalg.eigh(centred_ND.T @ centred_ND / max(1, len(sample_ND)))
    variance_K, direction_DK = variance_D[:-number - 1:-1], direction_DD[:, :-number - 1:-1]
    least = max(1e-6 * variance_D[-1], 1e-12)  # of equal rows
    map_DK = direction_DK / np.sqrt(np.maximum(variance_K, least))
    whitening = Whitening(mean_D.astype(np.float32), map_DK.astype(np.float32))
    return whitening, whitening(sample_ND)
