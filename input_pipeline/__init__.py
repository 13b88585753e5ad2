"""Input pipeline: data sources, image decoding, tokenizers and the loader of batches."""

from .sources import SOURCES, has_validation, open_source

__all__ = ["SOURCES", "has_validation", "open_source"]
