"""Command-line entry point, flags, help and printing."""
