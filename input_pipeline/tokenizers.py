"""Tokenizers by name: CLIP's, or a user's own by ``config.model.tokenizer="package.module:Name"``."""

import abc
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from . import tokenizer
from .registry import Registry


class Tokenizer(abc.ABC):
    """From texts to rows of token ids. An instance is made without arguments, in each process that reads data."""

    vocabulary_size: ClassVar[int]
    end_of_text: ClassVar[int]  # the id of the mark that ends a text, which is never cut off
    padding: ClassVar[int] = 0  # the id after it

    @abc.abstractmethod
    def __call__(self, texts: Sequence[str], context_length: int) -> np.ndarray:
        """Ids of each text: int32 ``[n, context_length]``, padded after the end."""


class ClipTokenizer(Tokenizer):
    """CLIP's byte pairs (Radford et al., 2021); see `tokenizer`."""

    vocabulary_size = tokenizer.VOCABULARY_SIZE
    end_of_text = tokenizer.END_OF_TEXT

    def __call__(self, texts: Sequence[str], context_length: int) -> np.ndarray:
        """As `tokenizer.tokenize`."""
        return tokenizer.tokenize(texts, context_length)


TOKENIZERS: Registry[Tokenizer] = Registry("model.tokenizer", Tokenizer, {"clip": ClipTokenizer})
CLIP = ClipTokenizer()
