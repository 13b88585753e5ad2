"""The members of tar files, in order, with a word about everything that is not one.

Nothing is ever extracted, and memory stays bounded whatever a header claims. A member is a regular file whose name has
a suffix. As webdataset has it, its key is its path up to the first dot of the file's name, and what follows is the
suffix. Whatever else a tar holds becomes a `Skip`, but for folders:

| what | reason |
|---|---|
| a system's own file: ``._0.jpg``, ``.DS_Store``, ``__MACOSX/0.jpg`` | `HIDDEN` |
| a link, also a hard one, a device, a pipe, a file with holes | not a regular file |
| a path that is absolute or has ``..`` | unsafe name |
| a file's name without a dot, or with nothing before or after the first | `NO_SUFFIX` |
| a file without any of these | `EMPTY` |
| a header that is none, a file that is cut off or has no end mark, other bytes behind the end mark | damaged tar |

Names may be of any encoding, from pax headers or GNU's long ones. Where tars stand one after the other in a file, as
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
LARGEST_IMAGE = 1 << 27  # bytes of a member that is an image: 128 MiB
LARGEST_TEXT = 1 << 22  # bytes of a member that is text or numbers: 4 MiB

_LARGEST_HEADER = 1 << 21  # bytes of all headers of a member
_MOST_GLOBAL = 64  # pax headers for all members
_LONGEST_PADDING = 1 << 24  # bytes of zeros behind an archive
_BLOCK = tarfile.BLOCKSIZE
_OTHER_COMPRESSION = (b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"PK\x03\x04")
# What damaged tars raise: headers with odd numbers, headers within headers without end, and damaged compression.
DAMAGES = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError, MemoryError, RecursionError)


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """Where a file lies in a tar.

    Args:
      archive: number of the tar, of several one after the other.
      key: what it has in common with the other members of its sample, as the tar has it: not always printable.
      suffix: the rest of its name, in lower case, from its first dot.
      offset: of its content in the file, uncompressed.
      size: in bytes.
    """

    archive: int
    key: str
    suffix: str
    offset: int
    size: int


def members(
    path: Path, most_read: Callable[[Member], int] = lambda _: 0
) -> Iterator[tuple[Member, bytes | None] | Skip]:
    """The members of a tar, plain or compressed with gzip, and what else there is.

    Args:
      path: the tar.
      most_read: the most bytes that a member may have of which the content is wanted; 0: it is not.

    Yields:
      A member and its content, None where that is not wanted or larger; or what was skipped.
    """
    archive = 0
    try:
        with _open(path) as file:
            if file is None:
                yield Skip("compressed otherwise than by gzip", path.name)
                return
            tape = _Tape(file)
            found = False
            while archive == 0 or _is_another(tape):
                for item in _archive(tape, path.name, archive, most_read):
                    found = True
                    yield item
                archive += 1
            if not found:
                yield Skip(EMPTY, path.name)
    except DAMAGES as error:
        yield Skip("damaged tar", f"{path.name}: {str(error)[:200] or type(error).__name__}")


def contents(path: Path, places: list[Member]) -> Iterator[bytes]:
    """The content of some members, which stand in the order of their offsets.

    Raises:
      OSError: the tar has become another.
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
            tar.members = []  # type: ignore[attr-defined]  # a list of millions would fill the memory
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
    """The tar's bytes, uncompressed; None: it is compressed in another way than is read."""
    with open_regular(path) as raw:
        start = raw.read(6)
        raw.seek(0)
        if start.startswith(b"\x1f\x8b"):
            yield cast(BinaryIO, gzip.GzipFile(fileobj=raw))
        else:
            yield None if start.startswith(_OTHER_COMPRESSION) else raw


def _is_another(tape: "_Tape") -> bool:
    """Goes to the archive behind the one that has ended; whether there is one."""
    for _ in range(_LONGEST_PADDING // _BLOCK):
        tape.budget = _LARGEST_HEADER
        block = tape.read(_BLOCK)
        if any(block):
            tape.unread()
            return True
        if len(block) < _BLOCK:
            return False
    raise tarfile.ReadError(f"more than {_LONGEST_PADDING:,} bytes of zeros behind its end")


class _Tape(io.RawIOBase):
    """The file as `tarfile` sees it, which reads headers and leaves the members' contents alone.

    Headers that lie cannot make it read much; and the last block can be read again, since going back in a compressed
    file means to begin anew.
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
        """The next read gives the last block once more."""
        self._again = True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell() - (len(self.last) if self._again else 0)
