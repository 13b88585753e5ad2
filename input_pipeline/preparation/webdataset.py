"""Webdataset tar shards, such as img2dataset writes: for each sample an image, a caption, and facts in JSON.

Nothing is ever extracted: members are read into memory, one sample at a time.
"""

import dataclasses
import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from ..errors import UserError
from ..preparation.folder import IMAGE_SUFFIXES
from ..preparation.pairs import Pair, Skip, decode_caption

_MOST_BYTES = 1 << 28  # of a member or a header; more is not an image
_SUFFIXES = (".tar", ".tar.gz", ".tgz")


@dataclasses.dataclass(frozen=True)
class WebDataset:
    """A tar file, or a folder of them; each is a job.

    Args:
      caption_key: field of a sample's JSON to use where there is no text file: a string, or a list of them.
    """

    path: Path
    caption_key: str

    def describe(self) -> dict[str, Any]:
        """See `PairSource.describe`."""
        return {"tars": {tar.name: tar.stat().st_size for tar in self._tars()}}

    def job_count(self) -> int:
        """See `PairSource.job_count`."""
        return len(self._tars())

    def jobs(self) -> Iterator[Path]:
        """See `PairSource.jobs`."""
        if not (tars := self._tars()):
            raise UserError(f"--input: no tar files ({', '.join(_SUFFIXES)}) in {self.path}.")
        yield from tars

    def read(self, job: Path) -> Iterator[Pair | Skip]:
        """See `PairSource.read`."""
        sample: dict[str, bytes] = {}
        current = None
        for item in _members(job):
            if isinstance(item, Skip):
                yield item
                continue
            key, suffix, content = item
            if key != current and sample:
                yield self._pair(f"{job.name}/{current}", sample)
                sample = {}
            current, sample[suffix] = key, content
        if sample:
            yield self._pair(f"{job.name}/{current}", sample)

    def _pair(self, key: str, sample: dict[str, bytes]) -> Pair | Skip:
        image = next((content for suffix, content in sample.items() if suffix in IMAGE_SUFFIXES), None)
        if image is None:
            return Skip("no image", key)
        if ".txt" in sample:
            caption = decode_caption(sample[".txt"], key)
            return caption if isinstance(caption, Skip) else Pair(key, image, (caption,))
        if ".json" not in sample:
            return Skip("no caption", key)
        try:
            value = json.loads(sample[".json"])[self.caption_key]
        except (ValueError, KeyError, TypeError, RecursionError):
            return Skip(f"no {self.caption_key!r} in the JSON", key)
        texts = value if isinstance(value, list) else [value]
        captions = tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())
        return Pair(key, image, captions) if captions else Skip("no caption", key)

    def _tars(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        return sorted(path for path in self.path.iterdir() if path.name.endswith(_SUFFIXES))


def _members(path: Path) -> Iterator[tuple[str, str, bytes] | Skip]:
    """Key, lower-case suffix and content of each regular file of a tar; what is not one, or is unsafe, is skipped."""
    try:
        with path.open("rb") as raw, tarfile.open(fileobj=_bounded(raw, path), mode="r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # a list of millions would fill the memory
                if not member.isdir():
                    yield _member(tar, member, f"{path.name}/{member.name[:200]}")
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, MemoryError) as error:
        yield Skip("damaged tar", f"{path.name}: {str(error)[:200]}")


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> tuple[str, str, bytes] | Skip:
    if not member.isreg():
        return Skip("not a regular file", name)
    if ".." in PurePosixPath(member.name).parts or member.name.startswith("/"):
        return Skip("unsafe name", name)
    if member.size > _MOST_BYTES:
        return Skip("too many bytes", name)
    content = cast(io.BufferedReader, tar.extractfile(member)).read()
    if len(content) < member.size:
        raise tarfile.ReadError("unexpected end of data")
    folder, slash, file = member.name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, f".{suffix.lower()}", content


def _bounded(raw: BinaryIO, path: Path) -> BinaryIO:
    plain = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.name.endswith("gz") else raw
    return cast(BinaryIO, _Bounded(plain))


class _Bounded(io.RawIOBase):
    """A file that refuses to read as much at once as a header that lies may ask for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_BYTES:
            raise tarfile.ReadError(f"a header asks for {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
