"""Which files of a folder or tar are taken for images, by their names alone."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from PIL import features

from .files import printable

# Of the formats that are decoded: JPEG, PNG, WebP, GIF, BMP, TIFF, and AVIF where this Pillow has its decoder.
IMAGE_SUFFIXES = (
    ".webp", ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".tif", ".tiff",
    *((".avif",) if features.check("avif") else ()),
)  # fmt: skip

# Of images that are not decoded: named where they are left out, so that nobody misses them without knowing why.
_OTHER_SUFFIXES = {
    ".arw", ".avif", ".avifs", ".cr2", ".cr3", ".cur", ".dcm", ".dds", ".dib", ".dng", ".eps", ".exr", ".hdr", ".heic",
    ".heics", ".heif", ".ico", ".icns", ".j2k", ".jp2", ".jpf", ".jpx", ".jxl", ".jxr", ".nef", ".orf", ".pbm", ".pcx",
    ".pdf", ".pgm", ".pict", ".pnm", ".ppm", ".psd", ".qoi", ".raf", ".raw", ".rw2", ".svg", ".svgz", ".tga", ".wdp",
    ".wmf", ".xcf",
}.difference(IMAGE_SUFFIXES)  # fmt: skip


def is_hidden(name: str) -> bool:
    """Whether a relative path is one of a system's own files: ``.DS_Store``, ``._0.jpg``, ``__MACOSX``, checkpoints.

    A part that begins with a dot hides all below it, as file managers have it.
    """
    return any(part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in name.split("/"))


def unread_format(suffix: str) -> str | None:
    """Why a file of this suffix, in lower case with its dot, is left out, if it is an image; None: it is none."""
    return f"{suffix} is not among the formats that are read" if suffix in _OTHER_SUFFIXES else None


def names_below(folder: Path) -> list[str]:
    """The relative paths of all files below a folder, in order; links to other folders are not followed."""
    found = (os.path.join(place, file) for place, _, files in os.walk(folder) for file in files)
    return sorted(os.path.relpath(path, folder) for path in found)


def count_suffixes(names: Iterable[str]) -> str:
    """How many there are of each suffix, the ten most frequent, in words: ``3 .heic, 1 .txt``."""
    counts = Counter(os.path.splitext(name)[1].lower() or "without a suffix" for name in names)
    return printable(", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common(10)))
