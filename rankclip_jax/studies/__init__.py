"""Studies: a grid of ordinary runs on equal terms, their results, statistics and page."""
