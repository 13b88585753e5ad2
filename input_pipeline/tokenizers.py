"""The registry of tokenizers: CLIP's, or a user-defined ``config.model.tokenizer="package.module:Name"``."""

import abc
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from . import tokenizer
from .registry import Registry


class Tokenizer(abc.ABC):
    """Converts texts to rows of token ids; created without arguments in each process that reads data."""

    vocabulary_size: ClassVar[int]
    end_of_text: ClassVar[int]  # the id of the end-of-text token, which truncation keeps
    padding: ClassVar[int] = 0  # the id of the padding after it

    @abc.abstractmethod
    def __call__(self, texts: Sequence[str], context_length: int) -> np.ndarray:
        """Returns the ids of each text: int32 ``[n, context_length]``, padded after the end."""


class ClipTokenizer(Tokenizer):
    """CLIP's byte pairs (Radford et al., 2021); see `tokenizer`."""

    vocabulary_size = tokenizer.VOCABULARY_SIZE
    end_of_text = tokenizer.END_OF_TEXT

    def __call__(self, texts: Sequence[str], context_length: int) -> np.ndarray:
        """See `tokenizer.tokenize`."""
        return tokenizer.tokenize(texts, context_length)


TOKENIZERS: Registry[Tokenizer] = Registry("model.tokenizer", Tokenizer, {"clip": ClipTokenizer})
CLIP = ClipTokenizer()
