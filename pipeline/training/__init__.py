"""A training from its flags to its results; and fitting a head on embeddings."""
