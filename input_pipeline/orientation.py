"""The Exif orientation of images: reads it from each format, and applies it. Other metadata is ignored.

| format | stored in |
|---|---|
| JPEG | an ``Exif`` segment, or XMP |
| PNG | a chunk ``eXIf``, a text ``Raw profile type exif`` (or ``APP1``), or XMP |
| WebP | a chunk ``EXIF``, or XMP |
| TIFF | the tag of its first directory, or XMP |
| AVIF | its own properties, which Pillow reads |

Invalid metadata is ignored: the image stays as stored. Exif takes precedence over XMP, as in Pillow.
"""

import re
import zlib

import numpy as np
from PIL import Image, ImageFile

from .image_formats import jpeg_segments, png_chunks, riff_chunks, tiff_directory

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the image

_TAG, _XMP_TAG = 0x0112, 700
_XMP = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])\s*["'<]""")
_MOST_TEXT = 1 << 20  # maximum bytes of decompressed text
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def of_file(content: bytes, form: str) -> int:
    """Returns the orientation of an image file, 1 to 8; 1 (upright) if it has none.

    Args:
      content: the file.
      form: its format. For AVIF, the result is always 1: see `of_opened`.
    """
    reader = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "TIFF": _tiff}.get(form)
    return reader(content) if reader else 1


def of_opened(image: Image.Image) -> int:
    """Returns the orientation of an image from `PIL.Image.open`; 1 for a derived image.

    Pillow applies that of TIFF itself.
    """
    if not isinstance(image, ImageFile.ImageFile) or image.format == "TIFF":
        return 1
    exif = image.info.get("exif") or _unpacked_profile(_as_bytes(image.info.get("Raw profile type exif")))
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    return _first(_of_exif(_as_bytes(exif)), _of_xmp(_as_bytes(xmp)))


def turn(image: Image.Image, orientation: int) -> Image.Image:
    """Returns an upright copy of the image."""
    return image.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else image.copy()


def turn_pixels(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Returns pixels ``[h, w, ...]`` upright."""
    pixels = pixels.swapaxes(0, 1) if swaps_sides(orientation) else pixels
    across, down = _mirrored(orientation)
    return pixels[:: -1 if down else 1, :: -1 if across else 1]


def turn_box_back(box: Box, width: int, height: int, orientation: int) -> Box:
    """Maps a box of the upright image, with this width and height, to the stored image."""
    left, top, right, bottom = box
    across, down = _mirrored(orientation)
    if across:
        left, right = width - right, width - left
    if down:
        top, bottom = height - bottom, height - top
    return (top, left, bottom, right) if swaps_sides(orientation) else (left, top, right, bottom)


def swaps_sides(orientation: int) -> bool:
    """Whether the orientation swaps width and height."""
    return orientation >= 5


def _mirrored(orientation: int) -> tuple[bool, bool]:
    """Whether left and right, and top and bottom, are mirrored after swapping the sides."""
    return orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)


def _jpeg(content: bytes) -> int:
    segments = [content[start + 4 : end] for marker, start, end in jpeg_segments(content) if marker == 0xE1]
    exif = b"".join(segment[6:] for segment in segments if segment.startswith(b"Exif\0\0"))
    return _first(
        _of_exif(exif), *(_of_xmp(segment) for segment in segments if segment.startswith(b"http://ns.adobe.com/xap"))
    )


def _png(content: bytes) -> int:
    exif = profile = xmp = b""
    for kind, start, end in png_chunks(content):
        if kind == b"eXIf":
            exif = exif or content[start + 8 : end - 4]
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            key = content[start + 8 : start + 88].partition(b"\0")[0]
            if key in (b"Raw profile type exif", b"Raw profile type APP1"):
                profile = profile or _text(kind, content[start + 9 + len(key) : end - 4])
            elif key == b"XML:com.adobe.xmp":
                xmp = xmp or _text(kind, content[start + 9 + len(key) : end - 4])
    return _first(_of_exif(exif or _unpacked_profile(profile)), _of_xmp(xmp))


def _webp(content: bytes) -> int:
    found: dict[bytes, bytes] = {}
    for kind, start, end in riff_chunks(content):
        if kind in (b"EXIF", b"XMP "):
            found.setdefault(kind, content[start:end])
    return _first(_of_exif(found.get(b"EXIF", b"")), _of_xmp(found.get(b"XMP ", b"")))


def _tiff(content: bytes) -> int:
    directory = tiff_directory(content)
    xmp = [entry for entry in directory.entries if entry.tag == _XMP_TAG] if directory else []
    packets = (content[entry.offset : entry.offset + entry.count] for entry in xmp[:1])
    return _first(_of_exif(content), *map(_of_xmp, packets))


def _of_exif(content: bytes) -> int | None:
    """Returns the orientation in the first directory, or None."""
    directory = tiff_directory(content.removeprefix(b"Exif\0\0"))
    orientation = directory.number(_TAG, 0) if directory else 0
    return orientation if 1 <= orientation <= 8 else None


def _of_xmp(content: bytes) -> int | None:
    match = _XMP.search(content)
    return int(match[1]) if match else None


def _first(*found: int | None) -> int:
    return next((orientation for orientation in found if orientation), 1)


def _text(kind: bytes, content: bytes) -> bytes:
    """Returns the text of a PNG chunk after its key, decompressed."""
    is_packed = kind == b"zTXt"
    if kind == b"zTXt":
        content = content[1:]  # skips the compression method
    elif kind == b"iTXt":  # skips two flags, the language and the translated key
        is_packed = content[:1] == b"\1"
        content = content[2:].partition(b"\0")[2].partition(b"\0")[2]
    try:
        return zlib.decompressobj().decompress(content, _MOST_TEXT) if is_packed else content[:_MOST_TEXT]
    except zlib.error:
        return b""


def _unpacked_profile(text: bytes) -> bytes:
    """Decodes ImageMagick's raw profile: a line with a name, a line with a length, then hexadecimal digits."""
    digits = b"".join(text.split(b"\n")[3:])
    match = re.match(rb"(?:[0-9a-fA-F]{2})*", digits)
    return bytes.fromhex(match[0].decode("ascii")) if match else b""


def _as_bytes(found: object) -> bytes:
    """Returns Pillow's metadata as bytes; its type depends on the format."""
    if isinstance(found, str):
        return found.encode("utf8", "replace")
    return found if isinstance(found, bytes) else b""
