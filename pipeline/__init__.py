"""Label image shards with Inception-v4: tar shards in, Parquet tables of top-5 labels and embeddings out."""
