"""Classifies files of a folder or tar by their names: images, hidden files, unsupported formats."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from PIL import features

from .files import printable

# The formats that are decoded: JPEG, PNG, WebP, GIF, BMP, TIFF, and AVIF if this Pillow has its decoder.
IMAGE_SUFFIXES = (
    ".webp", ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".tif", ".tiff",
    *((".avif",) if features.check("avif") else ()),
)  # fmt: skip

# Image formats that are not decoded: skipped files of these formats are reported with their format.
_OTHER_SUFFIXES = {
    ".arw", ".avif", ".avifs", ".cr2", ".cr3", ".cur", ".dcm", ".dds", ".dib", ".dng", ".eps", ".exr", ".hdr", ".heic",
    ".heics", ".heif", ".ico", ".icns", ".j2k", ".jp2", ".jpf", ".jpx", ".jxl", ".jxr", ".nef", ".orf", ".pbm", ".pcx",
    ".pdf", ".pgm", ".pict", ".pnm", ".ppm", ".psd", ".qoi", ".raf", ".raw", ".rw2", ".svg", ".svgz", ".tga", ".wdp",
    ".wmf", ".xcf",
}.difference(IMAGE_SUFFIXES)  # fmt: skip


def is_hidden(name: str) -> bool:
    """Whether a relative path is a hidden or system file: ``.DS_Store``, ``._0.jpg``, ``__MACOSX``, checkpoints.

    A part that starts with a dot hides everything below it, as in file managers.
    """
    return any(part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in name.split("/"))


def unread_format(suffix: str) -> str | None:
    """Returns why an image with this suffix (lower case, with its dot) is skipped, or None for other files."""
    return f"{suffix} is not among the formats that are read" if suffix in _OTHER_SUFFIXES else None


def names_below(folder: Path) -> list[str]:
    """Returns the sorted relative paths of all files below a folder; does not follow links to folders."""
    paths = (os.path.join(parent, file) for parent, _, files in os.walk(folder) for file in files)
    return sorted(os.path.relpath(path, folder) for path in paths)


def count_suffixes(names: Iterable[str]) -> str:
    """Returns the counts of the ten most frequent suffixes as text: ``3 .heic, 1 .txt``."""
    counts = Counter(os.path.splitext(name)[1].lower() or "without a suffix" for name in names)
    return printable(", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common(10)))
