"""Images and texts to embeddings, on all devices."""
