"""Reads the members of tar files in order, and reports everything else as a `Skip`.

Nothing is extracted, and memory is bounded whatever a header claims. A member is a regular file whose name has a
suffix. As in webdataset, its key is its path up to the first dot of the file's name, and the rest is the suffix.
Folders are ignored; every other entry becomes a `Skip`:

| entry | reason |
|---|---|
| a hidden or system file: ``._0.jpg``, ``.DS_Store``, ``__MACOSX/0.jpg`` | `HIDDEN` |
| a symbolic or hard link, a device, a pipe, a sparse file | not a regular file |
| an absolute path, or one with ``..`` | unsafe name |
| a file name without a dot, or with nothing before or after the first dot | `NO_SUFFIX` |
| a tar without any of these | `EMPTY` |
| an invalid header, a truncated file, a missing end mark, other bytes after the end mark | damaged tar |

Names may have any encoding, and come from pax headers or GNU's long names. If a file has several tars in a row, as
after ``cat a.tar b.tar``, each is read.
"""

import contextlib
import dataclasses
import gzip
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from .file_names import is_hidden
from .files import open_regular
from .preparation.pairs import Skip

HIDDEN, NO_SUFFIX, EMPTY = "hidden file", "name without a suffix", "empty tar"
LARGEST_IMAGE = 1 << 27  # bytes of an image member: 128 MiB
LARGEST_TEXT = 1 << 22  # bytes of a text or array member: 4 MiB

_LARGEST_HEADER = 1 << 21  # bytes of all headers of a member
_MOST_GLOBAL = 64  # global pax headers
_MAX_PADDING = 1 << 24  # bytes of zeros after an archive
_BLOCK = tarfile.BLOCKSIZE
_OTHER_COMPRESSION = (b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"PK\x03\x04")
# Raised on damaged tars: by headers with odd numbers, endlessly nested headers, and damaged compression.
DAMAGES = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError, MemoryError, RecursionError)


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """The location of a file in a tar.

    Args:
      archive: the index of the tar, among several in one file.
      key: the name shared by the members of its sample, as stored: not always printable.
      suffix: the rest of its name, in lower case, from its first dot.
      offset: the offset of its content in the uncompressed file.
      size: the size of its content in bytes.
    """

    archive: int
    key: str
    suffix: str
    offset: int
    size: int


def members(
    path: Path, most_read: Callable[[Member], int] = lambda _: 0
) -> Iterator[tuple[Member, bytes | None] | Skip]:
    """Yields the members of a tar, plain or compressed with gzip, and its skipped entries.

    Args:
      path: the tar.
      most_read: returns the maximum size of a member whose content is read; 0: its content is not read.

    Yields:
      A member and its content (None if not read), or a skipped entry.
    """
    archive = 0
    try:
        with _open(path) as file:
            if file is None:
                yield Skip("compressed otherwise than by gzip", path.name)
                return
            tape = _Tape(file)
            has_entries = False
            while archive == 0 or _is_another(tape):
                for item in _archive(tape, path.name, archive, most_read):
                    has_entries = True
                    yield item
                archive += 1
            if not has_entries:
                yield Skip(EMPTY, path.name)
    except DAMAGES as error:
        yield Skip("damaged tar", f"{path.name}: {str(error)[:200] or type(error).__name__}")


def contents(path: Path, places: list[Member]) -> Iterator[bytes]:
    """Yields the contents of members, given in the order of their offsets.

    Raises:
      OSError: the tar has changed.
    """
    with _open(path) as file:
        for place in places:
            yield _read(cast(BinaryIO, file), place)


def _archive(
    tape: "_Tape", name: str, number: int, most_read: Callable[[Member], int]
) -> Iterator[tuple[Member, bytes | None] | Skip]:
    with tarfile.open(fileobj=cast(BinaryIO, tape), mode="r:") as tar:
        before = -1
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # otherwise its list of all members grows without bound
            if len(tar.pax_headers) > _MOST_GLOBAL or info.size < 0 or info.offset <= before:
                raise tarfile.ReadError("a header that cannot be")
            before = info.offset
            item = _member(info, name, number)
            if isinstance(item, Skip):
                yield item
            elif item is not None:
                wanted = item.size <= most_read(item)
                yield item, _read(tape.file, item) if wanted else None
            tape.budget = _LARGEST_HEADER
    if any(tape.last) or len(tape.last) < _BLOCK:
        raise tarfile.ReadError("bytes that are no header" if any(tape.last) else "no end mark: is the file cut off?")


def _member(info: tarfile.TarInfo, tar: str, number: int) -> Member | Skip | None:
    name = f"{tar}/{info.name}"
    if info.isdir():
        return None
    if not info.isreg() or info.issparse():
        return Skip("not a regular file", name)
    if ".." in PurePosixPath(info.name).parts or info.name.startswith("/"):
        return Skip("unsafe name", name)
    if is_hidden(info.name):
        return Skip(HIDDEN, name)
    folder, slash, file = info.name.rpartition("/")
    stem, _, suffix = file.partition(".")
    if not stem or not suffix:
        return Skip(NO_SUFFIX, name)
    return Member(number, folder + slash + stem, f".{suffix.lower()}", info.offset_data, info.size)


def _read(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    content = file.read(member.size)
    if len(content) < member.size:
        raise tarfile.ReadError("unexpected end of data")
    return content


@contextlib.contextmanager
def _open(path: Path) -> Iterator[BinaryIO | None]:
    """Opens the uncompressed bytes of a tar; None for an unsupported compression."""
    with open_regular(path) as raw:
        start = raw.read(6)
        raw.seek(0)
        if start.startswith(b"\x1f\x8b"):
            yield cast(BinaryIO, gzip.GzipFile(fileobj=raw))
        else:
            yield None if start.startswith(_OTHER_COMPRESSION) else raw


def _is_another(tape: "_Tape") -> bool:
    """Moves to the next archive in the file; returns whether there is one."""
    for _ in range(_MAX_PADDING // _BLOCK):
        tape.budget = _LARGEST_HEADER
        block = tape.read(_BLOCK)
        if any(block):
            tape.unread()
            return True
        if len(block) < _BLOCK:
            return False
    raise tarfile.ReadError(f"more than {_MAX_PADDING:,} bytes of zeros behind its end")


class _Tape(io.RawIOBase):
    """The file as `tarfile` sees it: `tarfile` reads the headers, and skips the members' contents.

    A budget bounds what false headers can make it read. The last block can be read again, since seeking back in a
    compressed file means to decompress it from the start.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.budget = _LARGEST_HEADER
        self.last = b""
        self._again = False

    def read(self, size: int = -1) -> bytes:
        if self._again:
            self._again = False
            return self.last
        if not 0 <= size <= self.budget:
            raise tarfile.ReadError(f"headers of more than {_LARGEST_HEADER:,} bytes")
        self.budget -= size
        self.last = self.file.read(size)
        return self.last

    def unread(self) -> None:
        """Makes the next read return the last block again."""
        self._again = True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell() - (len(self.last) if self._again else 0)
