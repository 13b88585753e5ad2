"""What a model is worth: validation loss, zero-shot classification, retrieval and ranking quality."""
