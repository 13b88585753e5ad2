"""The structure of image files: detects the format, locates the parts, and removes the metadata.

Pillow reads unneeded metadata and fails on odd tags, so it only gets the parts that the pixels depend on. Nothing here
decodes pixels.
"""

import dataclasses
import re
import struct
from collections.abc import Iterator

from .errors import UnreadableError

_FORMATS = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<GIF>GIF8[79]a)|(?P<BMP>BM)|(?P<WEBP>RIFF.{4}WEBP)"
    rb"|(?P<TIFF>II[*+]\0|MM\0[*+])|(?P<AVIF>.{4}ftyp(?:avif|avis|mif1|msf1))",
    re.DOTALL,
)
FORMATS = tuple(_FORMATS.groupindex)  # the formats that are opened, by Pillow's names
_MOST_PARTS = 1 << 18  # segments, chunks or blocks that are read: more than any program writes
_MOST_TIFF_VALUES = 1 << 20  # strip offsets and similar
_MOST_OVERLAP = 16  # how many times the strips of a TIFF may cover it

# JPEG segments without effect on pixels. JFIF (E0) and Adobe (EE) are not among them: they give the color space.
_JPEG_METADATA = frozenset(range(0xE1, 0xF0)) - {0xEE} | {0xFE}
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_JPEG_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")  # without restart markers, and FF 00 within a scan
_SOS, _EOI = 0xDA, 0xD9
# TIFF tags that describe how pixels are stored; Pillow and libtiff need no others.
_TIFF_SHAPE = {*range(256, 260), 262, 266, 273, 277, 278, 279, 284, 320, *range(322, 326), 332, 338, 339}
_TIFF_CODECS = {292, 293, 317, 347, *range(512, 516), *range(517, 522), 529, 530, 532}
_TIFF_STRUCTURE = _TIFF_SHAPE | _TIFF_CODECS
_INTEGER = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}  # TIFF's integer types


def format_of(content: bytes) -> str:
    """Detects one of `FORMATS` by the first bytes.

    Raises:
      UnreadableError: the content has none of these formats.
    """
    match = _FORMATS.match(content)
    if match is None or match.lastgroup is None:
        raise UnreadableError(f"not an image: expected one of {', '.join(FORMATS)}")
    return match.lastgroup


def without_metadata(content: bytes, form: str) -> bytes:
    """Returns the file with only the parts that its first picture is decoded from.

    Raises:
      UnreadableError: the file has too many or too large parts.
    """
    match form:
        case "JPEG":
            return _bare_jpeg(content)
        case "PNG":
            kept = (content[start:end] for kind, start, end in png_chunks(content) if kind in _PNG_PIXELS)
            return content[:8] + b"".join(kept)
        case "GIF":
            return _bare_gif(content)
        case "TIFF":
            return _bare_tiff(content)
        case "AVIF":
            return _bare_avif(content)
    return content  # WebP's metadata is only read on request, and BMP has none


_PNG_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")


def jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields marker, start and end (including the marker's two bytes) of each segment up to the first scan header.

    Raises:
      UnreadableError: the file has too many segments.
    """
    position = 2
    for _ in range(_MOST_PARTS):
        start = content.find(b"\xff", position)  # skips junk before a marker, like decoders
        position = start + 1
        while start >= 0 and content[position : position + 1] == b"\xff":
            position += 1
        if start < 0 or position >= len(content):
            return
        marker = content[position]
        position += 1
        if marker in (0x00, 0x01, 0xD8) or 0xD0 <= marker <= 0xD7:
            continue  # a marker without a segment
        if marker == _EOI or len(content) < position + 2:
            return
        end = position + max(int.from_bytes(content[position : position + 2], "big"), 2)
        yield marker, position - 2, end
        if marker == _SOS:
            return
        position = end
    raise UnreadableError(f"more than {_MOST_PARTS:,} segments")


def jpeg_scan_count(content: bytes, most: int) -> int:
    """Returns the number of scans of a JPEG; stops counting above ``most``."""
    progressive, components, scans = False, 0, 0
    position = len(content)
    for marker, start, end in jpeg_segments(content):
        if marker in _JPEG_FRAMES:
            progressive, components = marker in _JPEG_PROGRESSIVE, int.from_bytes(content[start + 9 : start + 10])
        elif marker == _SOS:
            scans, position = 1, end
            if not progressive and int.from_bytes(content[start + 4 : start + 5]) >= components:
                return 1  # all components are in one scan, after which decoders stop
    while scans <= most and (match := _JPEG_MARKER.search(content, position)):
        position = match.end()
        marker = match[1][0]
        if marker == _EOI:
            break
        if marker != 0xD8:
            scans += marker == _SOS
            position += max(int.from_bytes(content[position : position + 2], "big"), 2)
    return scans


def png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields kind, start and end of each PNG chunk, including its length and checksum.

    Raises:
      UnreadableError: the file has too many chunks.
    """
    position = 8
    for _ in range(_MOST_PARTS):
        if len(content) < position + 8:
            return
        end = position + 12 + int.from_bytes(content[position : position + 4], "big")
        kind = content[position + 4 : position + 8]
        yield kind, position, end
        if kind == b"IEND":
            return
        position = end
    raise UnreadableError(f"more than {_MOST_PARTS:,} chunks")


def riff_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields kind, start and end of the data of each chunk of a WebP file.

    Raises:
      UnreadableError: the file has too many chunks.
    """
    position = 12
    for _ in range(_MOST_PARTS):
        if len(content) < position + 8:
            return
        start = position + 8
        end = start + int.from_bytes(content[position + 4 : start], "little")
        yield content[position : position + 4], start, end
        position = end + end % 2
    raise UnreadableError(f"more than {_MOST_PARTS:,} chunks")


@dataclasses.dataclass(frozen=True)
class TiffEntry:
    """An entry of a TIFF directory: tag, type number, value count, the bytes of the entry, and the byte order."""

    tag: int
    kind: int
    count: int
    content: bytes
    order: str

    @property
    def number(self) -> int | None:
        """The value if it is a single integer stored in the entry, else None."""
        start = 8 if self.is_small else 12
        layout = self.order + _INTEGER.get(self.kind, "")
        if self.count != 1 or self.kind not in _INTEGER or start + struct.calcsize(layout) > len(self.content):
            return None
        value: int = struct.unpack_from(layout, self.content, start)[0]
        return value

    @property
    def is_small(self) -> bool:
        """Whether the entry is of a classic TIFF (up to 4 GiB), which has shorter entries than BigTIFF."""
        return len(self.content) == 12

    @property
    def offset(self) -> int:
        """The offset of values that do not fit in the entry."""
        return int.from_bytes(self.content[8 if self.is_small else 12 :], "little" if self.order == "<" else "big")


@dataclasses.dataclass(frozen=True)
class TiffDirectory:
    """The first directory of a TIFF file, or of Exif, which has the same format: its entries and their start."""

    entries: tuple[TiffEntry, ...]
    start: int
    order: str
    is_big: bool

    def number(self, tag: int, default: int) -> int:
        """Returns a tag's value, or the default if the tag is missing or not an integer."""
        value = next((entry.number for entry in self.entries if entry.tag == tag), None)
        return default if value is None else value


def tiff_directory(content: bytes) -> TiffDirectory | None:
    """Returns the directory with the entries within the content, or None if the content is not a TIFF."""
    match = re.match(rb"(II)[*+]\0|(MM)\0[*+]", content)
    if match is None:
        return None
    order = "<" if match[1] else ">"
    is_big = b"+" in match[0]
    header, counter, entry_size = ("Q", "Q", 20) if is_big else ("I", "H", 12)
    try:
        (offset,) = struct.unpack_from(order + header, content, 8 if is_big else 4)
        (count,) = struct.unpack_from(order + counter, content, offset)
    except (struct.error, OverflowError):
        return None
    start = offset + struct.calcsize(order + counter)
    count = min(count, (len(content) - start) // entry_size, 0xFFFF)
    entries = []
    for number in range(count):
        entry = content[start + number * entry_size : start + (number + 1) * entry_size]
        tag, kind, values = struct.unpack_from(order + ("HHQ" if is_big else "HHI"), entry)
        entries.append(TiffEntry(tag, kind, values, entry, order))
    return TiffDirectory(tuple(entries), start, order, is_big)


def _bare_jpeg(content: bytes) -> bytes:
    kept, position = [content[:2]], len(content)
    for marker, start, end in jpeg_segments(content):
        if marker == _SOS:
            position = start
        elif marker not in _JPEG_METADATA:
            kept.append(content[start:end])
    return b"".join([*kept, content[position:]])


def _bare_gif(content: bytes) -> bytes:
    """Keeps the screen, the palette, the extension with the transparent color, and all from the first picture on."""
    flags = int.from_bytes(content[10:11])
    position = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    screen, control = content[:position], b""
    for _ in range(_MOST_PARTS):
        kind, start = content[position : position + 1], position
        if kind in (b"", b",", b";"):
            return screen + control + content[position:]
        position += 1
        if kind == b"!":
            position += 1
            while size := int.from_bytes(content[position : position + 1]):
                position += 1 + size
            position += 1
            if content[start + 1 : start + 2] == b"\xf9":
                control = content[start:position]
    raise UnreadableError(f"more than {_MOST_PARTS:,} blocks before the first picture")


def _bare_tiff(content: bytes) -> bytes:
    """Keeps only the first directory, reduced to the tags that describe how pixels are stored."""
    directory = tiff_directory(content)
    if directory is None:
        raise UnreadableError("TIFF without a directory")
    kept = {entry.tag: entry for entry in reversed(directory.entries) if entry.tag in _TIFF_STRUCTURE}
    _check_tiff(directory, kept)
    entries = b"".join(kept[tag].content for tag in sorted(kept))
    counter, header = ("Q", "Q") if directory.is_big else ("H", "I")
    count = struct.pack(directory.order + counter, len(kept))
    written = entries + bytes(struct.calcsize(header))
    start = directory.start - len(count)
    return b"".join([content[:start], count, written, content[directory.start + len(written) :]])


def _check_tiff(directory: TiffDirectory, kept: dict[int, TiffEntry]) -> None:
    """Raises UnreadableError if a few bytes would cause much work: overlapping strips or huge tiles."""
    if (values := sum(entry.count for entry in kept.values())) > _MOST_TIFF_VALUES:
        raise UnreadableError(f"TIFF with a directory of {values:,} values")
    width, height = directory.number(256, 0), directory.number(257, 0)
    is_tiled = 324 in kept
    across, down = directory.number(322, width), directory.number(323, height)
    part = across * down if is_tiled else width * min(directory.number(278, height), height)
    pieces = kept[324 if is_tiled else 273].count if (324 if is_tiled else 273) in kept else 0
    planes = directory.number(277, 1) if directory.number(284, 1) == 2 else 1
    if pieces > 1 and part * pieces > _MOST_OVERLAP * max(planes, 1) * max(width * height, 1 << 20):
        raise UnreadableError(f"TIFF of {width} x {height} pixels in {pieces:,} parts of {part:,}")
    if is_tiled and across * down > max(_MOST_OVERLAP * width * height, 1 << 22):
        raise UnreadableError(f"TIFF of {width} x {height} pixels in tiles of {across} x {down}")


def _bare_avif(content: bytes) -> bytes:
    """Renames metadata items so that decoders ignore them; in AVIF, the orientation is not metadata."""
    parts: list[bytes] = []
    position = 0
    while position + 8 <= len(content) and len(parts) < _MOST_PARTS:
        size, kind = int.from_bytes(content[position : position + 4], "big"), content[position + 4 : position + 8]
        if size == 1:
            size = int.from_bytes(content[position + 8 : position + 16], "big")
        end = len(content) if size < 8 else position + size
        box = content[position:end]
        if kind in (b"meta", b"moov"):
            box = box.replace(b"Exif", b"none").replace(b"application/rdf+xml", b"application/nothing")
        parts.append(box)
        position = end
    return b"".join([*parts, content[position:]])
