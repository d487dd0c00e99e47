"""The formats of shards: an open shard -> its samples."""
