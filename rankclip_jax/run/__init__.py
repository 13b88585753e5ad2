"""A run: its settings, the parts that they describe, its state, and the folder that keeps them."""
