"""The user's input: which shards it has, and how each is read; and packing a folder into shards."""
