"""What a run logs, and the pages and figures made of it."""
