"""What a source reads, and what every source can do."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol


@dataclasses.dataclass(frozen=True)
class Pair:
    """An encoded image and its captions, at least one; ``key`` names it, the same in every run."""

    key: str
    image: bytes
    captions: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Skip:
    """Something that was no pair, and why: the reason is one of a few, so that they can be counted."""

    reason: str
    name: str


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


def decode_caption(content: bytes, name: str) -> str | Skip:
    """UTF-8 text without white space around it."""
    try:
        text = content.decode("utf8").replace("\0", "").strip()
    except UnicodeDecodeError:
        return Skip("caption is not UTF-8", name)
    return text or Skip("no caption", name)
