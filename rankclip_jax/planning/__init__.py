"""What a recipe would take on devices that need not be here: the real step, compiled for them, and read."""
