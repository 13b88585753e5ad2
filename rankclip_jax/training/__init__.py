"""A run: its settings, its folder, its state, its steps and how it ends."""
