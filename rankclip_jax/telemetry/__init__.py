"""What a person and other programs see of a run while it goes on."""
