"""The interface of sources to prepare: pairs, skipped items, and cleaning of captions."""

import dataclasses
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from ..files import printable

_MAX_NAME_LENGTH = 4096  # characters, the maximum of a path
_INVISIBLE = {"Cc", "Cf", "Zs", "Zl", "Zp"}  # categories of control, format and white space characters


@dataclasses.dataclass(frozen=True)
class Pair:
    """An encoded image and its captions, at least one, with a printable ``key`` that is the same in every run.

    Args:
      key: the key.
      image: the encoded image.
      captions: the captions.
      split: the split that the source assigns it to; empty: the command decides.
    """

    key: str
    image: bytes
    captions: tuple[str, ...]
    split: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", printable(self.key, _MAX_NAME_LENGTH))


@dataclasses.dataclass(frozen=True)
class Skip:
    """A skipped item and its reason, one of a few, so that items can be counted by reason.

    The name is printable, even if that of the file or tar member is not.
    """

    reason: str
    name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name, _MAX_NAME_LENGTH))


class PairSource(Protocol):
    """A source whose input several processes can read in parts."""

    def describe(self) -> dict[str, Any]:
        """Returns a description of the input as JSON, which changes when the input changes."""
        ...

    def job_count(self) -> int:
        """Returns the approximate number of jobs."""
        ...

    def jobs(self) -> Iterator[Any]:
        """Yields the jobs in order, each small enough to send to another machine."""
        ...

    def read(self, job: Any) -> Iterator[Pair | Skip]:
        """Yields the pairs of a job, in order, and its skipped items."""
        ...


def describe_file(path: Path) -> dict[str, Any]:
    """Returns a description of a file as JSON: its name, size and modification time."""
    stat = path.stat()
    return {"file": path.name, "bytes": stat.st_size, "modified": stat.st_mtime_ns}


def clean_captions(texts: Iterable[str | bytes], name: str) -> tuple[str, ...] | Skip:
    """Returns the cleaned captions of an image, without invalid ones, or a `Skip` if none is left.

    Args:
      texts: the captions in the source.
      name: the name of the pair.
    """
    first: Skip | None = None
    captions = []
    for text in texts:
        if isinstance(caption := decode_caption(text, name), str):
            captions.append(caption)
        else:
            first = first or caption
    return tuple(captions) or first or Skip("no caption", name)


def decode_caption(text: str | bytes, name: str) -> str | Skip:
    """Returns a clean caption: Unicode text without NUL, byte-order marks and surrounding white space; or a `Skip`.

    Bytes that are not UTF-8, strings with lone surrogates, and captions without a visible character are skipped.
    """
    try:
        text = text.decode("utf8") if isinstance(text, bytes) else text.encode("utf8").decode("utf8")
    except UnicodeError:
        return Skip("caption is not UTF-8", name)
    text = text.replace("\0", "").replace("\ufeff", "").strip()
    return text if _is_visible(text) else Skip("no caption", name)


def _is_visible(text: str) -> bool:
    return any(unicodedata.category(character) not in _INVISIBLE for character in text)
