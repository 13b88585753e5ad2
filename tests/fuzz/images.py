"""Image files with odd and broken metadata, headers and sizes, drawn at random, through every view that images have.

python -m tests.fuzz.images [--count 200000] [--seed 0] [--output DIR]

An image is read or is an `UnreadableError`, in at most `SECONDS` and `BYTES`, and starts no program. Where only
metadata is odd, the pixels are those of the file without it, turned as its orientation says.
"""

import argparse
import collections
import dataclasses
import io
import random
import resource
import struct
import sys
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, features

from rankclip_jax.input_pipeline import images, memory
from rankclip_jax.input_pipeline.errors import UnreadableError

SECONDS, BYTES, KEPT = 5.0, 1 << 30, 1 << 28
_SIZE = 24, 18
_PROGRAMS = (
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
)
# Tags that Pillow looks at or that cameras write: sizes, resolutions, names, and directories within.
_TAGS = [254, 256, 257, 258, 259, 262, 270, 271, 272, 273, 279, 282, 283, 296, 305, 306, 315, 513, 514, 529, 530, 531,
         532, 700, 33432, 34665, 34853, 34675, 37500, 40965, 50706, 0xBC01, 0, 65535]  # fmt: skip
_ODD_ORIENTATIONS = [
    (2, 2, b"6\0\0\0"), (3, 2, b"\0\6\0\6"), (5, 1, bytes(4)), (3, 1, b"\xff\xff\0\0"), (3, 1, bytes(4)),
    (12, 1, bytes(4)), (3, 0, b"\0\6\0\0"), (17, 1, b"\6\6\6\6"), (3, 2**31, b"\xff\xff\xff\xff"),
]  # fmt: skip
_NUMBERS = [0, 1, 2, 3, 4, 7, 8, 12, 255, 256, 4096, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 16, 2**32 - 1]


@dataclasses.dataclass
class Summary:
    """What became of the files; ``failures`` holds a line and the file for each that broke the promise."""

    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    failures: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    most_bytes: tuple[int, str] = (0, "")
    kept_bytes: int = 0


Tell = Callable[[int, Summary], None]


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A file; where only its metadata is odd, how it must be turned and the file without."""

    name: str
    content: bytes
    plain: bytes = b""
    orientation: int = 1


def run(
    count: int, seed: int, drawn: Iterator[Drawn] | None = None, tell: Tell = lambda _done, _summary: None
) -> Summary:
    """Draws ``count`` files, each by the seed and its number alone, after those that are given."""
    summary, started, seeds = Summary(), _watched_programs(), _seeds()
    _try(Drawn("first", encoded("PNG")), summary, started)  # what is imported late is not counted
    resident = _resident_bytes()
    for one in drawn or ():
        _try(one, summary, started)
    summary.kept_bytes = _resident_bytes() - resident
    for number in range(count):
        _try(_draw(seeds, random.Random(f"{seed} {number}")), summary, started)
        if number % 1000 == 999:
            tell(number + 1, summary)
    return summary


def _shown(image: Image.Image) -> np.ndarray | None:
    """Pixels of a small image; large ones are not kept."""
    return np.asarray(image) if image.width * image.height < 1 << 16 else None


def _box_view(picture: images.Picture) -> np.ndarray:
    return picture.view((0, 0, picture.width, picture.height), (16, 16))


VIEWS: dict[str, Callable[[bytes], object]] = {
    "open_image": lambda content: _shown(images.open_image(content)),
    "decode": lambda content: _shown(images.decode(content)),
    "evaluation_view": lambda content: images.evaluation_view(images.open_image(content), 16),
    "centre_view": lambda content: images.centre_view(images.open_picture(content), 16),
    "view": lambda content: _box_view(images.open_picture(content)),
    "check": images.check,
    "shrink": lambda content: images.shrink(content, 12, 90)[:2],
}


def _try(drawn: Drawn, summary: Summary, started: list[str]) -> None:
    made, reasons = {}, []
    resident = _reset_peak()
    for name, view in VIEWS.items():
        start = time.thread_time()
        try:
            made[name] = view(drawn.content)
        except UnreadableError as error:
            reasons.append(str(error))
        except Exception:
            summary.failures.append((f"{drawn.name}, {name}: {traceback.format_exc(limit=-4)}", drawn.content))
        seconds = time.thread_time() - start
        summary.slowest = max(summary.slowest, (seconds, f"{drawn.name}, {name}"))
        if seconds > SECONDS:
            summary.failures.append((f"{drawn.name}, {name}: took {seconds:.1f} s", drawn.content))
    grown = _peak_bytes() - resident
    summary.most_bytes = max(summary.most_bytes, (grown, drawn.name))
    if grown > BYTES:
        summary.failures.append((f"{drawn.name}: took {grown / 1e6:,.0f} MB", drawn.content))
    summary.outcomes[f"{drawn.name.split(':')[0]}, {'unreadable' if reasons else 'read'}"] += 1
    wrong = _wrong(drawn, made) if not reasons else f"unreadable for its metadata: {reasons[0]}" if drawn.plain else ""
    if wrong:
        summary.failures.append((f"{drawn.name}: {wrong}", drawn.content))
    while started:
        summary.failures.append((f"{drawn.name}: started {started.pop()}", drawn.content))


def _wrong(drawn: Drawn, made: dict[str, object]) -> str:
    """What is wrong with the views of a file that can be read; empty: nothing."""
    if len(made) < len(VIEWS):
        return ""  # it has failed
    if drawn.plain:
        expected = _turned(np.asarray(images.open_image(drawn.plain)), drawn.orientation)
        if not np.array_equal(np.asarray(made["open_image"]), expected):
            return f"not turned as {drawn.orientation} says"
    # What libtiff makes of broken data is not always the same.
    if "TIFF" not in drawn.name and not np.array_equal(
        np.asarray(made["evaluation_view"]), np.asarray(made["centre_view"])
    ):
        return "the centre view is another than the evaluation view"
    return ""


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """By the definition of the Exif standard: where row 0 and column 0 of what is stored lie."""
    row_0 = {1: "top", 2: "top", 3: "bottom", 4: "bottom", 5: "left", 6: "right", 7: "right", 8: "left"}[orientation]
    column_0 = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}[orientation]
    if row_0 in ("left", "right"):
        pixels = np.swapaxes(pixels, 0, 1)
    if "right" in (row_0, column_0):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if "bottom" in (row_0, column_0) else pixels


def _draw(seeds: list[tuple[str, bytes]], rng: random.Random) -> Drawn:
    form, content = rng.choice(seeds)
    wrap = _WRAP.get(form.split()[0])
    if wrap and rng.random() < 0.6:
        orientation, exif = _exif(rng)
        return Drawn(f"{form}: odd metadata", wrap(content, exif, rng), content, orientation)
    if wrap and rng.random() < 0.5:
        content = wrap(content, _exif(rng)[1], rng)
    change = rng.choice([_bytes_changed, _numbers_changed, _cut, _spliced])
    return Drawn(f"{form}: {change.__name__[1:]}", change(content, rng, seeds))


def _bytes_changed(content: bytes, rng: random.Random, _: object) -> bytes:
    changed = bytearray(content)
    within = rng.choice([16, 64, 256, len(content)])
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        changed[rng.randrange(min(within, len(changed)))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    return _with_checksums(bytes(changed), rng)


def _numbers_changed(content: bytes, rng: random.Random, _: object) -> bytes:
    """Lengths, counts and offsets, wherever they are."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 3])):
        form = rng.choice(["<H", ">H", "<I", ">I"])
        number = rng.choice(_NUMBERS) % (1 << 8 * struct.calcsize(form))
        struct.pack_into(form, changed, rng.randrange(min(len(changed) - 4, rng.choice([64, 512, 1 << 20]))), number)
    return _with_checksums(bytes(changed), rng)


def _cut(content: bytes, rng: random.Random, _: object) -> bytes:
    return content[: rng.randrange(len(content))] + bytes(rng.choice([0, 0, 100]))


def _spliced(content: bytes, rng: random.Random, seeds: list[tuple[str, bytes]]) -> bytes:
    """A piece twice, left out, or from another file."""
    start, end = sorted(rng.randrange(len(content)) for _ in range(2))
    other = rng.choice([content, rng.choice(seeds)[1]])
    place = rng.randrange(len(other))
    return (
        content[:start] + rng.choice([b"", other[place : place + end - start], content[start:end] * 2]) + content[end:]
    )


def _with_checksums(content: bytes, rng: random.Random) -> bytes:
    """Mostly with the checksums of PNG set right, so that what is odd is reached."""
    if not content.startswith(b"\x89PNG") or rng.random() < 0.2:
        return content
    parts, position = [content[:8]], 8
    while position + 8 <= len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        body = content[position + 4 : position + 8 + length]
        parts += [content[position : position + 4], body, struct.pack(">I", zlib.crc32(body))]
        position += 12 + length
    return b"".join(parts)


def _exif(rng: random.Random) -> tuple[int, bytes]:
    """The orientation that Exif says, and Exif of odd entries: types, counts, offsets and values that nobody means."""
    order = rng.choice("<>")
    entries, extra = [], bytes(rng.randrange(256) for _ in range(rng.choice([0, 8, 64])))
    for tag in rng.sample(_TAGS, rng.randrange(8)):
        kind, count = rng.randrange(18), rng.choice([*_NUMBERS, 1, 1, 2, 8])
        value = rng.choice([rng.choice(_NUMBERS), rng.randrange(256), 0x31 << 24 | 0x31, rng.getrandbits(32)])
        entries.append(struct.pack(order + "HHII", tag, kind, count, value % 2**32))
    orientation = rng.choice([1, 1, 2, 3, 4, 5, 6, 7, 8])
    match rng.choice(["right", "right", "none", "odd", "elsewhere"]):
        case "right":
            value = struct.pack(order + "HH", orientation, 0)
            entries.insert(rng.randrange(len(entries) + 1), struct.pack(order + "HHI", 0x0112, 3, 1) + value)
        case "odd":
            kind, count, value = rng.choice(_ODD_ORIENTATIONS)
            entries.insert(rng.randrange(len(entries) + 1), struct.pack(order + "HHI", 0x0112, kind, count) + value)
            orientation = 1
        case "elsewhere":  # a header that leads nowhere
            header = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", rng.choice([42, 0, 7]), rng.choice(
                [2**31, 2**32 - 8, 10**6, 2**32 - 1]))  # fmt: skip
            return 1, header + b"".join(entries) + extra
        case _:
            orientation = 1
    count = rng.choice([len(entries)] * 4 + [len(entries) + 1, 2000, 65535])
    header = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    content = header + struct.pack(order + "H", count) + b"".join(entries)
    following = struct.pack(order + "I", rng.choice([0, 0, 8, 10**6, 2**32 - 1]))
    if count > len(entries) and extra:  # what follows may then read as an orientation
        extra = bytes(len(extra))
    return orientation, content + following + extra


def _in_jpeg(content: bytes, exif: bytes, rng: random.Random) -> bytes:
    def segment(marker: int, body: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body

    others = [segment(0xE2, b"MPF\0" + b"\xff" * 4), segment(0xE2, b"ICC_PROFILE\0\7\1"), segment(0xE1, b""),
              segment(0xED, b"Photoshop 3.0\x008BIM\3\xed\0\0"), segment(0xE2, b"FPXR\0"), segment(0xFE, b"hi"),
              segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")]  # fmt: skip
    before, after = (rng.sample(others, rng.randrange(3)) for _ in range(2))
    return b"".join([content[:2], *before, segment(0xE1, b"Exif\0\0" + exif), *after, content[2:]])


def _in_png(content: bytes, exif: bytes, rng: random.Random) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(kind + body) if rng.random() < 0.9 else 0
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    raw = b"\nexif\n%8d\n%s\n" % (len(exif), exif.hex().encode())
    own = rng.choice(
        [
            chunk(b"eXIf", exif),
            chunk(b"eXIf", b"Exif\0\0" + exif),
            chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw)),
            chunk(b"iTXt", b"Raw profile type exif\0\1\0\0\0" + zlib.compress(raw)),
            chunk(b"tEXt", b"Raw profile type APP1\0" + raw.replace(b"exif", b"APP1")),
        ]
    )
    others = [chunk(b"zTXt", b"k\0\0not zlib"), chunk(b"iCCP", b"\0\1"), chunk(b"iCCP", b""), chunk(b"pHYs", b"\0"),
              chunk(b"sRGB", b""), chunk(b"cHRM", b"123"), chunk(b"gAMA", b""), chunk(b"acTL", b"\0\0\0\7\0\0\0\0"),
              chunk(b"tIME", b"\xff" * 7), chunk(b"tRNS", b"\0\0\0\0\0\0"), chunk(b"zTXt", b"k\0\0" + _PACKED_ZEROS),
              chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0\xff"), chunk(b"fcTL", b""), chunk(b"eXIf", b"")]  # fmt: skip
    place = 33 if rng.random() < 0.7 else content.index(b"IEND") - 4
    return content[:place] + b"".join([*rng.sample(others[:-1], rng.randrange(4)), own]) + content[place:]


def _in_webp(content: bytes, exif: bytes, rng: random.Random) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)

    width, height = _SIZE
    shape = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    metadata = [chunk(b"EXIF", rng.choice([b"", b"Exif\0\0"]) + exif), chunk(b"XMP ", b"<x/>")]
    body = chunk(b"VP8X", bytes([rng.choice([8, 12, 0x2C]), 0, 0, 0]) + shape) + content[12:] + b"".join(metadata)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _in_tiff(content: bytes, exif: bytes, rng: random.Random) -> bytes:
    """The entries beside those that say how pixels are stored, whose numbers they leave alone."""
    del rng
    order = "<" if content[:2] == b"II" else ">"
    theirs = "<" if exif[:2] == b"II" else ">"
    (place,) = struct.unpack_from(order + "I", content, 4)
    (count,) = struct.unpack_from(order + "H", content, place)
    found = {
        struct.unpack_from(order + "H", content, start)[0]: content[start : start + 12]
        for start in range(place + 2, place + 2 + 12 * count, 12)
    }
    if struct.unpack_from(theirs + "HI", exif, 2) == (42, 8):
        (more,) = struct.unpack_from(theirs + "H", exif, 8)
        for start in range(10, min(10 + 12 * more, len(exif) - 15), 12):
            tag, kind, values = struct.unpack_from(theirs + "HHI", exif, start)
            value = exif[start + 8 : start + 12]
            value = struct.pack(order + "HH", *struct.unpack(theirs + "HH", value)) if kind == 3 else value
            if tag not in _TIFF_PIXELS:
                found.setdefault(tag, struct.pack(order + "HHI", tag, kind, values) + value)
    directory = struct.pack(order + "H", len(found)) + b"".join(found[tag] for tag in sorted(found)) + bytes(4)
    return content[:4] + struct.pack(order + "I", len(content)) + content[8:] + directory


_TIFF_PIXELS = {254, 256, 257, 258, 259, 262, 273, 279, 513, 514, 529, 530, 532, 700}
_PACKED_ZEROS = zlib.compress(bytes(1 << 22))
_WRAP: dict[str, Callable[[bytes, bytes, random.Random], bytes]] = {
    "JPEG": _in_jpeg, "PNG": _in_png, "WEBP": _in_webp, "TIFF": _in_tiff,
}  # fmt: skip


def _picture(mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (_SIZE[1] // 3, _SIZE[0] // 3, 3)).astype(np.uint8)
    image = Image.fromarray(values).resize(_SIZE, Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode)


def encoded(form: str, mode: str = "RGB", image: Image.Image | None = None, **options: object) -> bytes:
    """A file of a small picture."""
    file = io.BytesIO()
    (image or _picture(mode)).save(file, form, **options)
    return file.getvalue()


def _seeds() -> list[tuple[str, bytes]]:
    more = [_picture("P"), _picture("P").rotate(90)]
    kinds: list[tuple[str, str, dict]] = [
        ("JPEG", "RGB", {}), ("JPEG", "L", {}), ("JPEG", "CMYK", {}), ("JPEG", "RGB", {"progressive": True}),
        ("PNG", "RGB", {}), ("PNG", "P", {}), ("PNG", "RGBA", {}), ("PNG", "I;16", {}), ("PNG", "1", {}),
        ("PNG", "RGB", {"save_all": True, "append_images": [_picture()]}),
        ("WEBP", "RGB", {}), ("WEBP", "RGB", {"lossless": True}),
        ("GIF", "P", {"save_all": True, "append_images": more, "transparency": 3, "comment": b"x" * 300}),
        ("BMP", "RGB", {}), ("BMP", "P", {}),
        ("TIFF", "RGB", {}), ("TIFF", "RGBA", {"compression": "tiff_lzw"}), ("TIFF", "I;16", {}),
        ("TIFF", "P", {"compression": "tiff_adobe_deflate"}), ("TIFF", "RGB", {"compression": "jpeg"}),
        ("TIFF", "F", {}), ("TIFF", "CMYK", {}), ("TIFF", "1", {"compression": "group4"}),
    ]  # fmt: skip
    found = [(f"{form} {mode}", encoded(form, mode, **options)) for form, mode, options in kinds]
    # Names that `_WRAP` does not know: it knows files that hold one picture in colours.
    found.append(("LAB-TIFF", encoded("TIFF", image=Image.frombytes("LAB", _SIZE, _picture().tobytes()))))
    found.append(("moving-WEBP RGB", encoded("WEBP", save_all=True, append_images=[_picture()], exif=b"Exif\0\0II")))
    found.append(("run-length-BMP P", _run_length_bmp(24, 18, b"\x18\1\0\0" * 18 + b"\0\1")))
    if features.check("avif"):
        exif = Image.Exif()
        exif[0x0112], exif[271] = 6, "a maker"
        found.append(("AVIF RGB", encoded("AVIF", exif=exif, xmp=b"<x/>")))
    return found


def _run_length_bmp(width: int, height: int, runs: bytes) -> bytes:
    palette = bytes(range(256)) * 4
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(runs), 0, 0, 54 + 1024) + header + palette + runs


def bombs() -> Iterator[Drawn]:
    """Files that ask for much: of pixels, scans, unpacked text and directories. Making some takes seconds."""
    yield from oversized()
    for name, (depth, colours, size) in _PNG_KINDS.items():
        yield Drawn(
            f"bomb: the largest {name} PNG", _png(8192, 8192, depth, colours, _zeros(8192 * int(8192 * size + 1)))
        )
    for mode in ("RGB", "CMYK"):
        largest = Image.new(mode, (8192, 8192), (9, 99, 200, 0)[: len(mode)])
        yield Drawn(f"bomb: the largest {mode} JPEG", encoded("JPEG", image=largest, progressive=True, subsampling=0))
    for mode in ("RGB", "RGBA"):
        largest = Image.new(mode, (5792, 5792), (9, 99, 200, 100)[: len(mode)])
        yield Drawn(f"bomb: the largest {mode} WebP", encoded("WEBP", image=largest, lossless=True, method=0))
        if features.check("avif"):
            options = {"speed": 10, "subsampling": "4:4:4"}
            yield Drawn(f"bomb: the largest {mode} AVIF", encoded("AVIF", image=largest, **options))
    yield Drawn("bomb: the largest run-length BMP", _run_length_bmp(4000, 4000, b"\0\0" * 4000 + b"\0\1"))
    jpeg = encoded("JPEG", image=Image.new("L", (4096, 4096)), progressive=True)
    for scans in (31, 20_000):
        yield Drawn(f"bomb: JPEG of {scans} more scans", jpeg[:-2] + _SCAN * scans + b"\xff\xd9")
    jpeg, plain, gif = encoded("JPEG"), encoded("PNG"), encoded("GIF", "P")
    yield Drawn("bomb: JPEG of a million segments", jpeg[:2] + b"\xff\xe1\0\2" * 1_000_000 + jpeg[2:])
    yield Drawn("bomb: PNG of a million chunks", plain[:33] + _chunk(b"abcd", b"") * 1_000_000 + plain[33:])
    text = _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 26), 9))
    yield Drawn("bomb: PNG with texts that unpack to 6 GB", plain[:33] + text * 100 + plain[33:], plain)
    colours = 13 + (3 << ((gif[10] & 7) + 1))
    comment = b"!\xfe" + (b"\xff" + b"x" * 255) * 60_000 + b"\0"
    yield Drawn("bomb: GIF with a comment of 15 MB", gif[:colours] + comment + gif[colours:], gif)
    yield Drawn("bomb: TIFF whose entries all hold the file", _tiff_bomb(encoded("TIFF", "L")))
    yield Drawn("bomb: TIFF of strips that lie over each other", _tiff_strips())


def oversized() -> Iterator[Drawn]:
    """Of a few bytes each: sizes that no decoder should take at their word, and Pillow's other formats."""
    for name, (depth, colours, _) in _PNG_KINDS.items():
        yield Drawn(f"bomb: {name} PNG of 13000 x 13000", _png(13_000, 13_000, depth, colours, _zeros(1000)))
    yield Drawn("bomb: PNG of a pixel's width", _png(1, 1 << 26, 8, 0, _zeros(1 << 20)))
    yield Drawn("bomb: PNG of a pixel's height", _png(1 << 26, 1, 8, 0, _zeros(1 << 20)))
    gif, jpeg = encoded("GIF", "P"), encoded("JPEG", progressive=True)
    yield Drawn("bomb: GIF of a screen of 65535 x 65535", gif[:6] + b"\xff" * 4 + gif[10:])
    yield Drawn("bomb: run-length BMP", _run_length_bmp(8000, 8000, b"\0\0" * 8000 + b"\0\1"))
    vp8x = b"VP8X\x0a\0\0\0\0\0\0\0" + b"\xfe\x3f\0" * 2
    yield Drawn("bomb: WebP of 16383 x 16383", b"RIFF" + struct.pack("<I", 100) + b"WEBP" + vp8x + encoded("WEBP")[12:])
    start = jpeg.index(b"\xff\xc2")
    yield Drawn("bomb: JPEG of 65500 x 65500", jpeg[: start + 5] + b"\xff\xdc" * 2 + jpeg[start + 9 :])
    for form in ("EPS", "PCX", "PPM", "TGA", "IM", "ICO", "SGI", "PDF", "JPEG2000", "DDS", "SPIDER", "MSP"):
        if form in Image.SAVE:
            yield Drawn(f"other format: {form}", encoded(form, {"SPIDER": "F", "MSP": "1"}.get(form, "RGB")))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/tmp) run\n%%EOF\n"
    yield Drawn("other format: a program in PostScript", script)


_PNG_KINDS = {"16-bit grey": (16, 0, 2), "palette": (8, 3, 1), "RGBA": (8, 6, 4), "1-bit": (1, 0, 1 / 8)}
_SCAN = b"\xff\xda\0\x08\1\1\0\1\x3f\0" + bytes(64)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, depth: int, colours: int, packed: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    palette = _chunk(b"PLTE", bytes(768)) if colours == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + header + palette + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _zeros(count: int) -> bytes:
    packer = zlib.compressobj(1)
    parts = [packer.compress(bytes(min(count - start, 1 << 24))) for start in range(0, count, 1 << 24)]
    return b"".join([*parts, packer.flush()])


def _tiff_bomb(tiff: bytes) -> bytes:
    """60,000 entries with an odd tag, each of a mebibyte."""
    (place,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, place)
    entries = tiff[place + 2 : place + 2 + 12 * count]
    more = b"".join(struct.pack("<HHII", 5000 + number, 1, 1 << 20, 8) for number in range(60_000))
    directory = struct.pack("<H", count + 60_000) + entries + more + bytes(4)
    return tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + directory + bytes(1 << 20)


def _tiff_strips() -> bytes:
    """Grey 1000 x 1000 in 200,000 strips of all but one row, each at the same place."""
    strips, place = 200_000, 8 + 1_000_000
    tags = [(256, 4, 1, 1000), (257, 4, 1, 1000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
            (273, 4, strips, place), (277, 3, 1, 1), (278, 4, 1, 999), (279, 4, strips, place)]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    offsets = struct.pack("<I", 8) * strips
    return b"II*\0" + struct.pack("<I", place + len(offsets)) + bytes(1_000_000) + offsets + directory


def _watched_programs() -> list[str]:
    """A list that every start of a program from here on adds to."""
    started: list[str] = []

    def watch(event: str, arguments: object) -> None:
        if event in _PROGRAMS:
            started.append(f"{event} {arguments!r:.200}")

    sys.addaudithook(watch)  # stays for good; its list is read here alone
    return started


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def _reset_peak() -> int:
    """Begins to look for the most memory anew; what the process has now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _resident_bytes()


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def main(argv: list[str] | None = None) -> int:
    """Runs and prints; 1 where a promise was broken, with the files in ``--output``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200_000, help="files to draw (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="folder for the files of which a promise was broken")
    arguments = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    memory.give_large_back()  # as preparation does
    start = time.monotonic()

    def tell(done: int, summary: Summary) -> None:
        seconds = time.monotonic() - start
        print(f"{done:,} files, {len(summary.failures)} failures, {done / seconds:.0f} a second", flush=True)

    summary = run(arguments.count, arguments.seed, bombs(), tell)
    for name, count in sorted(summary.outcomes.items()):
        print(f"{count:9,} {name}")
    seconds, name = summary.slowest
    print(f"{len(summary.failures)} failures; slowest {seconds:.1f} s of CPU time ({name})")
    grown, name = summary.most_bytes
    print(f"memory: {grown / 1e6:,.0f} MB at most ({name}), of which {summary.kept_bytes / 1e6:,.0f} MB were kept")
    for number, (line, content) in enumerate(summary.failures[:40]):
        print(line)
        if arguments.output:
            (Path(arguments.output) / f"{number}.bin").write_bytes(content)
    return int(bool(summary.failures) or summary.kept_bytes > KEPT)


if __name__ == "__main__":
    sys.exit(main())
