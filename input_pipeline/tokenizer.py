"""CLIP's byte-pair tokenizer: lower-cased text to ids, with start- and end-of-text tokens.

The merges are those published with CLIP (Radford et al., 2021), read from a file of the package ``openai-clip``. The
package itself is never imported, since that would import PyTorch.
"""

import functools
import gzip
import heapq
import html
import importlib.metadata
import itertools
from collections.abc import Sequence

import ftfy
import numpy as np
import regex

CONTEXT_LENGTH = 77
VOCABULARY_SIZE = 49_408
START_OF_TEXT = 49_406
END_OF_TEXT = 49_407

_WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)

# Characters of a word and of a text that are read per id of a row. An id stands for at most 32 bytes, so normal text is
# never affected; this bounds the time and memory for any text.
_LETTERS_OF_WORD, _LETTERS_OF_TEXT = 256, 1024
_MAX_CACHED_LENGTH = 32  # characters of a word whose ids are cached
_HUGE_REFERENCE = regex.compile(r"(?<=&#)[0-9]{600,}")  # more digits than Python converts to a number

_PLAIN = regex.compile(r"[ -%'-~\t\n\r]*")  # ASCII without &: text that ftfy leaves unchanged


def tokenize(texts: Sequence[str], context_length: int = CONTEXT_LENGTH) -> np.ndarray:
    """Returns the byte-pair ids of each text, between the start- and end-of-text tokens, padded with zeros.

    A text that is too long is truncated, but keeps its end-of-text token. A caption that spells out a special token,
    such as ``<end_of_text>``, is encoded as ordinary characters. Only the first ``1024 * context_length`` characters of
    a text are read, after collapsing white space, and the first ``256 * context_length`` of a word.

    Args:
      texts: n strings.
      context_length: number of ids in a row, special tokens included.

    Returns:
      int32 ``[n, context_length]``.

    Raises:
      TypeError: ``texts`` is a string instead of a list.

    Example:
      >>> from rankclip_jax.input_pipeline.tokenizer import tokenize
      >>> print(tokenize(["a red circle", "a blue square"], context_length=6))
      [[49406   320   736  7117 49407     0]
       [49406   320  1746  3999 49407     0]]
    """
    if isinstance(texts, str):
        raise TypeError("tokenize expects a list of strings; found one string")
    ids = np.zeros((len(texts), context_length), np.int32)
    for row, text in zip(ids, texts, strict=True):
        encoded = [START_OF_TEXT, *_encode(text, context_length - 2), END_OF_TEXT]
        row[: len(encoded)] = encoded
    return ids


def clean(text: str) -> str:
    """Fixes mis-decoded characters, resolves HTML entities, lower-cases and collapses white space."""
    if not _PLAIN.fullmatch(text):
        text = _unescape(_unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def _unescape(text: str) -> str:
    """Resolves HTML entities; a numeric one that is not a character becomes the replacement character."""
    return html.unescape(_HUGE_REFERENCE.sub("1114112", text) if "&#" in text else text)


def _encode(text: str, limit: int) -> list[int]:
    ids: list[int] = []
    if len(text) > (most := _LETTERS_OF_TEXT * (limit + 2)):
        text = regex.sub(r"(\s)\s+", r"\1", text)[:most]
    for match in _WORDS.finditer(clean(text)):
        word = match.group()[: _LETTERS_OF_WORD * (limit + 2)]
        ids.extend(_encode_word(word) if len(word) <= _MAX_CACHED_LENGTH else _encode_uncached(word))
        if len(ids) >= limit:
            break
    return ids[:limit]


@functools.cache
def _byte_symbols() -> list[str]:
    """Returns a printable character for each byte, in the order of CLIP's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    symbols = {byte: chr(byte) for byte in printable}
    unprintable = (byte for byte in range(256) if byte not in symbols)
    symbols |= {byte: chr(256 + offset) for offset, byte in enumerate(unprintable)}
    return [symbols[byte] for byte in range(256)]


@functools.cache
def vocabulary() -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Returns the ids of all symbols except the two special tokens, and the rank of each merge."""
    name = "bpe_simple_vocab_16e6.txt.gz"
    files = importlib.metadata.files("openai-clip") or []
    path = next(file.locate() for file in files if file.name == name)
    with gzip.open(str(path), "rt", encoding="utf8") as lines:
        next(lines)  # skips a version line
        merges = [tuple(line.split()) for _, line in zip(range(VOCABULARY_SIZE - 512 - 2), lines, strict=False)]
    single = sorted(_byte_symbols())  # numbered by code point: printable bytes first, then the shifted ones
    symbols = [*single, *(symbol + "</w>" for symbol in single), *("".join(merge) for merge in merges)]
    ranks = {(first, second): rank for rank, (first, second) in enumerate(merges)}
    return {symbol: index for index, symbol in enumerate(symbols)}, ranks


@functools.lru_cache(maxsize=1 << 18)
def _encode_word(word: str) -> tuple[int, ...]:
    return _encode_uncached(word)


def _encode_uncached(word: str) -> tuple[int, ...]:
    ids, ranks = vocabulary()
    byte_symbols = _byte_symbols()
    parts = [byte_symbols[byte] for byte in word.encode()]
    parts[-1] += "</w>"
    return tuple(ids[part] for part in _merge(parts, ranks))


def _merge(parts: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Applies merges in the order of their ranks, each from left to right, until none applies.

    A priority queue makes this O(n log n): ten thousand characters without a space take milliseconds.
    """
    end = len(parts)
    before, after = list(range(-1, end - 1)), list(range(1, end + 1))
    queue = [(ranks[pair], left) for left, pair in enumerate(itertools.pairwise(parts)) if pair in ranks]
    heapq.heapify(queue)
    while queue:
        rank, changed = queue[0][0], []
        while queue and queue[0][0] == rank:
            _, left = heapq.heappop(queue)
            right = after[left]
            if right == end or ranks.get((parts[left], parts[right])) != rank:
                continue  # a neighbour has been merged since
            parts[left], parts[right] = parts[left] + parts[right], ""
            after[left] = after[right]
            if after[left] < end:
                before[after[left]] = left
            changed += [before[left], left]
        for left in changed:
            if left >= 0 and after[left] < end and (pair := (parts[left], parts[after[left]])) in ranks:
                heapq.heappush(queue, (ranks[pair], left))
    return [part for part in parts if part]
