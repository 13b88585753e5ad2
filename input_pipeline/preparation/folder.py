"""A folder of images, each with a text file of the same name beside it: a caption on each line."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import images
from ..errors import UnreadableError, UserError
from ..preparation.pairs import Pair, Skip, decode_caption

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclasses.dataclass(frozen=True)
class Folder:
    """Images anywhere below a folder; links to other folders are not followed.

    Args:
      shard_size: images of a job.
    """

    path: Path
    shard_size: int

    def describe(self) -> dict[str, Any]:
        """See `PairSource.describe`."""
        names = self._names()
        return {"folder": self.path.name, "images": len(names), "bytes": sum(map(self._size, names))}

    def job_count(self) -> int:
        """See `PairSource.job_count`."""
        return -(-len(self._names()) // self.shard_size)

    def jobs(self) -> Iterator[list[str]]:
        """See `PairSource.jobs`."""
        names = self._names()
        if not names:
            raise UserError(f"--input: no images ({', '.join(IMAGE_SUFFIXES)}) in {self.path} or below.")
        for start in range(0, len(names), self.shard_size):
            yield names[start : start + self.shard_size]

    def read(self, job: list[str]) -> Iterator[Pair | Skip]:
        """See `PairSource.read`."""
        for name in job:
            yield self._pair(name)

    def _pair(self, name: str) -> Pair | Skip:
        path = self.path / name
        try:
            lines = images.read(path.with_suffix(".txt")).splitlines()
        except UnreadableError:
            return Skip("no caption", name)
        captions = [decode_caption(line, name) for line in lines if line.strip()]
        usable = tuple(caption for caption in captions if isinstance(caption, str))
        if not usable:
            return next((caption for caption in captions if isinstance(caption, Skip)), Skip("no caption", name))
        try:
            return Pair(name, images.read(path), usable)
        except UnreadableError:
            return Skip("unreadable file", name)

    def _names(self) -> list[str]:
        found = (
            os.path.relpath(os.path.join(folder, file), self.path)
            for folder, _, files in os.walk(self.path)
            for file in files
            if file.lower().endswith(IMAGE_SUFFIXES)
        )
        return sorted(found)

    def _size(self, name: str) -> int:
        try:
            return (self.path / name).stat().st_size
        except OSError:
            return 0
