"""One encoded image -> its pixels, preprocessed for the network."""
