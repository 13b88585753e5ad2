"""Sources, decoding, tokenizer and the loader: everything up to a batch of uint8 pixels and token ids."""

from .sources import SOURCES, has_validation, open_source

__all__ = ["SOURCES", "has_validation", "open_source"]
