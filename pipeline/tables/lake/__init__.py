"""The log of an output that is a lake table: which files count, by Delta or by Iceberg."""
