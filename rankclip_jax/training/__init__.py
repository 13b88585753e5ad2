"""Training of a run: its batches, its step, its loop and its final evaluation."""
