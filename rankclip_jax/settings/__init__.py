"""Declarations, validation and resolution of a run's settings."""
