"""The network, its classes and its weights."""
