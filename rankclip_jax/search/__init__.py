"""Searching a prepared dataset with one's own model."""
