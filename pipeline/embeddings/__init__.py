"""What is made of the embeddings in the tables: no image is read, and no GPU is needed."""
