"""The network in the form in which it labels, and how a CPU or a GPU runs it."""
