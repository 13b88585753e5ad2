"""A folder of images, each with a text file of the same name next to it: one caption per line.

Every other file is counted as skipped: hidden files with an image's suffix (``._0.jpg``, or any in
``.ipynb_checkpoints``), images of unsupported formats by suffix, captions without an image, and anything else.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import images
from ..errors import UnreadableError, UserError
from ..file_names import IMAGE_SUFFIXES, count_suffixes, is_hidden, names_below, unread_format
from ..files import open_regular
from ..preparation.pairs import Pair, Skip, clean_captions

LARGEST_TEXT = 1 << 22  # bytes of an image's caption file


@dataclasses.dataclass(frozen=True)
class Folder:
    """Images anywhere below a folder, without following links to folders.

    Args:
      path: the folder.
      shard_size: number of files per job.
    """

    path: Path
    shard_size: int

    def describe(self) -> dict[str, Any]:
        """See `PairSource.describe`."""
        names = [entry for entry in self._entries() if isinstance(entry, str)]
        return {"folder": self.path.name, "images": len(names), "bytes": sum(map(self._size, names))}

    def job_count(self) -> int:
        """See `PairSource.job_count`."""
        return -(-len(self._entries()) // self.shard_size)

    def jobs(self) -> Iterator[list[str | Skip]]:
        """See `PairSource.jobs`."""
        entries = self._entries()
        if not any(isinstance(entry, str) for entry in entries):
            counts = count_suffixes(names_below(self.path)) or "no files"
            raise UserError(
                f"--input: expected images ({', '.join(IMAGE_SUFFIXES)}) in {self.path} or below; found {counts}."
            )
        for start in range(0, len(entries), self.shard_size):
            yield entries[start : start + self.shard_size]

    def read(self, job: list[str | Skip]) -> Iterator[Pair | Skip]:
        """See `PairSource.read`."""
        for entry in job:
            yield self._pair(entry) if isinstance(entry, str) else entry

    def _pair(self, name: str) -> Pair | Skip:
        path = self.path / name
        text = next((text for suffix in (".txt", ".TXT") if (text := path.with_suffix(suffix)).exists()), None)
        if text is None:
            return Skip("no caption", name)
        try:
            with open_regular(text) as file:
                content = file.read(LARGEST_TEXT + 1)
        except OSError:
            return Skip("unreadable caption", name)
        if len(content) > LARGEST_TEXT:
            return Skip("caption has too many bytes", name)
        captions = clean_captions(content.splitlines(), name)
        if isinstance(captions, Skip):
            return captions
        try:
            return Pair(name, images.read(path), captions)
        except UnreadableError:
            return Skip("unreadable file", name)

    def _entries(self) -> list[str | Skip]:
        """Returns the relative paths of the images, and the skipped files, sorted by name."""
        names = names_below(self.path)
        with_image = {stem for stem, suffix in map(os.path.splitext, names) if suffix.lower() in IMAGE_SUFFIXES}
        return [entry for name in names if (entry := _entry(name, with_image)) is not None]

    def _size(self, name: str) -> int:
        try:
            return (self.path / name).stat().st_size
        except OSError:
            return 0


def _entry(name: str, with_image: set[str]) -> str | Skip | None:
    """Returns the name of an image, a `Skip` for another file, or None for a file that is not counted.

    Args:
      name: the relative path of a file.
      with_image: the relative paths of all images, without suffixes.
    """
    stem, suffix = os.path.splitext(name)
    is_image = suffix.lower() in IMAGE_SUFFIXES
    if is_hidden(name):
        return Skip("hidden file", name) if is_image else None
    if is_image:
        return name
    if suffix in (".txt", ".TXT"):
        return None if stem in with_image else Skip("no image", name)
    return Skip(unread_format(suffix.lower()) or "not an image", name)
