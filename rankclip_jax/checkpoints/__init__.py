"""Checkpoints, their checksums, and the folder of a run."""
