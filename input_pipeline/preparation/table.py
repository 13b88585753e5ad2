"""CSV and TSV lists of image files and captions, as open_clip and the RankCLIP release read them."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import images, tables
from ..errors import UnreadableError
from ..preparation.pairs import Pair, Skip, clean_captions, describe_file

Row = tuple[str, ...]  # the image's path, then captions


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with a line of column names; relative image paths start from its folder.

    Args:
      path: the file.
      image_key: the column of image paths.
      caption_key: the column of captions, or several separated by commas; empty captions are dropped.
      delimiter: the column delimiter; empty: by the suffix.
      shard_size: number of rows per job.
    """

    path: Path
    image_key: str
    caption_key: str
    delimiter: str
    shard_size: int

    def describe(self) -> dict[str, Any]:
        """See `PairSource.describe`; logs ambiguous rows."""
        for _ in tables.rows(self.path, self._columns(), self.delimiter, flag="--input"):
            pass
        return describe_file(self.path)

    def job_count(self) -> int:
        """See `PairSource.job_count`."""
        with self.path.open("rb") as file:
            lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 24), b""))
        return -(-max(lines - 1, 1) // self.shard_size)  # the first line has the column names

    def jobs(self) -> Iterator[list[Row | Skip]]:
        """See `PairSource.jobs`."""
        rows: list[Row | Skip] = []
        doubts = tables.Doubts()  # `describe` logs them
        for line, values in tables.rows(self.path, self._columns(), self.delimiter, flag="--input", doubts=doubts):
            rows.append(values if isinstance(values, tuple) else Skip(values.reason, f"{self.path.name}, line {line}"))
            if len(rows) == self.shard_size:
                yield rows
                rows = []
        if rows:
            yield rows

    def _columns(self) -> tuple[str, ...]:
        tables.check(self.path, "--input")
        names = tables.column_names(self.path, tables.delimiter_of(self.path, self.delimiter), flag="--input")
        return (self.image_key, *tables.caption_columns(names, self.caption_key))

    def read(self, job: list[Row | Skip]) -> Iterator[Pair | Skip]:
        """See `PairSource.read`."""
        for row in job:
            yield row if isinstance(row, Skip) else self._pair(row)

    def _pair(self, row: Row) -> Pair | Skip:
        name, *texts = row
        try:
            name.encode("utf8")
        except UnicodeEncodeError:
            return Skip("path is not UTF-8", repr(name))
        captions = clean_captions((text.encode("utf8", "surrogateescape") for text in texts if text), name)
        if isinstance(captions, Skip):
            return captions
        try:
            return Pair(name, images.read(self.path.parent / name), captions)
        except UnreadableError as error:
            return Skip("no such file" if isinstance(error.__cause__, FileNotFoundError) else "unreadable file", name)
