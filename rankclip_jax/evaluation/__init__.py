"""Evaluations of a model: validation loss, zero-shot classification, retrieval, ranking quality and others."""
