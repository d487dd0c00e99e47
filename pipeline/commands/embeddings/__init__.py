"""The verbs that need the embeddings of the tables alone."""
