"""How a run is trained: its batches, its step, its loop and how it ends."""
