"""One training worker: the crops, the network, the loop, the saved files."""
