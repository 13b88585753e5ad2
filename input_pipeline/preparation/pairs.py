"""What a source reads, and what every source can do."""

import dataclasses
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from ..files import printable

_LONGEST_NAME = 4096  # letters; that of a path on a disk
_INVISIBLE = {"Cc", "Cf", "Zs", "Zl", "Zp"}  # categories of control, format and white space characters


@dataclasses.dataclass(frozen=True)
class Pair:
    """An encoded image and its captions, at least one; ``key`` names it, the same in every run, and is printable."""

    key: str
    image: bytes
    captions: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", printable(self.key, _LONGEST_NAME))


@dataclasses.dataclass(frozen=True)
class Skip:
    """Something that was no pair, and why: the reason is one of a few, so that they can be counted.

    The name is printable, whatever bytes the file or tar member that it comes from was named with.
    """

    reason: str
    name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name, _LONGEST_NAME))


class PairSource(Protocol):
    """Input that can be read in parts, by several processes."""

    def describe(self) -> dict[str, Any]:
        """What the input is, as JSON: another description is another input."""
        ...

    def job_count(self) -> int:
        """Roughly how many jobs there will be."""
        ...

    def jobs(self) -> Iterator[Any]:
        """The parts in order, each small enough to send to another machine."""
        ...

    def read(self, job: Any) -> Iterator[Pair | Skip]:
        """The pairs of a part, in order."""
        ...


def describe_file(path: Path) -> dict[str, Any]:
    """What tells a file from another of its name, as JSON."""
    stat = path.stat()
    return {"file": path.name, "bytes": stat.st_size, "modified": stat.st_mtime_ns}


def clean_captions(texts: Iterable[str | bytes], name: str) -> tuple[str, ...] | Skip:
    """The captions of one image, cleaned, without those that are none; where none is left, why.

    Args:
      texts: as they stand in the source.
      name: of the pair.
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
    """A caption as every source keeps it: Unicode text without NUL, byte-order marks, and white space around it.

    Bytes that are not UTF-8, and strings with lone surrogates, are no Unicode text. A caption in which nothing is
    visible is none.
    """
    try:
        text = text.decode("utf8") if isinstance(text, bytes) else text.encode("utf8").decode("utf8")
    except UnicodeError:
        return Skip("caption is not UTF-8", name)
    text = text.replace("\0", "").replace("\ufeff", "").strip()
    return text if _is_visible(text) else Skip("no caption", name)


def _is_visible(text: str) -> bool:
    return any(unicodedata.category(character) not in _INVISIBLE for character in text)
