"""What all commands share: flags, recipes by name, and one paragraph instead of a traceback."""
