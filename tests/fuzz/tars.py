"""Tars drawn at random: order, doubling, names, depth, types, compression, truncation and concatenation.

Preparation makes of each sample a pair or counts it, whatever the tar; and evaluation either opens a set with exactly
the samples that were put in or refuses it.
"""

import dataclasses
import gzip
import io
import json
import random
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.evaluation_sets import open_set
from rankclip_jax.input_pipeline.evaluation_sets.wording import ClassPrompts
from rankclip_jax.input_pipeline.preparation.pairs import Pair
from rankclip_jax.input_pipeline.preparation.webdataset import WebDataset
from tests import fuzz

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "jfif", "JPG", "Png")
UNREAD = ("heic", "jp2", "svg", "HEIC", "seg.png", "v2.jpg")
FOLDERS = ("", "", "", "a/", "./", "a/b/c/", "x.y/", "été/", "caf\udce9/", "n" * 120 + "/" + "m" * 90 + "/")
STEMS = ("", "é", "e\u0301", "\udce9", "\x1b[2J", " ", "a\nb", "猫", "x" * 200, "'\"", "\u202e")
ODD = (
    "._0.jpg",
    ".DS_Store",
    "__MACOSX/0.jpg",
    ".ipynb_checkpoints/0.jpg",
    "../0.jpg",
    "/etc/0.jpg",
    "0",
    ".",
    "0.",
    "a/",
)
TYPES = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE)
CAPTIONS = (b"a cat", "猫".encode(), b"\xef\xbb\xbfa cat", b"a cat\0", b" \n a cat \r\n", b"line\nline")
NO_CAPTIONS = (b"", b" \n", b"\xef\xbb\xbf", b"\0", b"\xff\xfe", b"\xed\xa0\xbd", "\u200b\u2060".encode())
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A member to be written."""

    name: str
    content: bytes = b""
    kind: bytes = tarfile.REGTYPE


def check(draw: random.Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _check_preparation(draw, Path(folder))
        _check_evaluation(draw, Path(folder))


def _check_preparation(draw: random.Random, folder: Path) -> None:
    archives = [_samples(draw, number) for number in range(draw.choice((1, 1, 1, 2, 3)))]
    parts = [_tar(draw, entries) for entries, _, _ in archives]
    damaged = draw.random() < 0.3
    if damaged:  # a cut between two archives leaves a whole file, of which nobody can tell
        parts[-1] = _damage(draw, parts[-1])
    content = b"".join(parts)
    path = folder / draw.choice(("0.tar", "0.tar.gz", "caf\udce9.tar"))
    path.write_bytes(gzip.compress(content, 1) if draw.random() < 0.4 else content)
    found = list(WebDataset(folder).read(path))
    pairs = [item for item in found if isinstance(item, Pair)]
    skips = [item for item in found if not isinstance(item, Pair)]
    for item in found:
        name = item.key if isinstance(item, Pair) else item.name
        assert name.isprintable(), name
        name.encode()
    for pair in pairs:
        assert pair.image.startswith(b"image ")
        assert all(caption.strip() == caption and caption.encode() for caption in pair.captions)
    expected = Counter(image for _, images, _ in archives for image in images)
    odd = Counter[str]()
    for _, _, others in archives:
        odd.update(others)
    if not expected and not odd:
        odd["empty tar"] = 1
    got = Counter(pair.image for pair in pairs)
    counts = Counter(skip.reason for skip in skips)
    if damaged:
        assert got <= expected
        lost = (expected - got).total()  # a name that was damaged may part an image from its caption
        assert not lost or counts["damaged tar"] == 1 or counts["no caption"] >= lost, (got, expected, counts)
    else:
        assert got == expected, (expected - got, got - expected, counts)
        assert counts == odd, (counts, odd)


def _samples(draw: random.Random, archive: int) -> tuple[list[Entry], list[bytes], Counter[str]]:
    """The members of an archive, the images of its samples that are pairs, and how much is to be skipped, by reason."""
    groups: list[list[Entry]] = []
    images: list[bytes] = []
    odd = Counter[str]()
    folder = draw.choice(FOLDERS)
    for number in range(draw.choice((0, 1, 3, 8))):
        key = f"{draw.choice((folder, folder, draw.choice(FOLDERS)))}{draw.choice(STEMS)}{number}"
        image = b"image %d %d" % (archive, number)
        caption = _caption(draw)
        group = [
            Entry(f"{key}.{draw.choice(IMAGES)}", image),
            *(Entry(f"{key}.{kind}", text) for kind, text in caption),
        ]
        match draw.choice(
            (*["whole"] * 6, "no image", "no caption", "none", "another image", "unread", "another", "doubled")
        ):
            case "whole":
                images.append(image)
            case "no image":
                del group[0]
                odd["no image"] += 1
            case "no caption":
                del group[1:]
                odd["no caption"] += 1
            case "none":
                group[1:] = [Entry(f"{key}.txt", draw.choice(NO_CAPTIONS))]
                odd["no caption" if _is_text(group[1].content) else "caption is not UTF-8"] += 1
            case "another image":
                images.append(image)
                suffix = draw.choice(IMAGES)
                group.insert(draw.randrange(1, len(group) + 1), Entry(f"{key}.{suffix}", b"another"))
                odd["doubled member"] += 1
            case "unread":
                suffix = draw.choice(UNREAD)
                group[0] = Entry(f"{key}.{suffix}", image)
                odd[_reason(suffix)] += 1
            case "another":
                images.append(image)
                group.insert(draw.randrange(len(group) + 1), Entry(f"{key}.{draw.choice(('cls', 'npy', 'md'))}", b"0"))
            case "doubled":
                images.append(image)
                kind, text = caption[0]
                group.append(Entry(f"{key}.{kind}", text))
                odd["doubled member"] += 1
        groups.append(group)
    if draw.random() < 0.3 and not odd["doubled member"]:  # which is the first is seen of members that stand together
        entries = [entry for group in groups for entry in _apart(group)]
        draw.shuffle(entries)
    else:
        entries = [entry for group in groups for entry in group]
    for _ in range(draw.choice((0, 0, 1, 4))):
        name, kind = draw.choice(ODD), draw.choice((tarfile.REGTYPE, *TYPES))
        entries.insert(draw.randrange(len(entries) + 1), Entry(name, b"", kind))
        odd.update(_reasons(name, kind))
    return entries, images, odd


def _caption(draw: random.Random) -> list[tuple[str, bytes]]:
    text = draw.choice(CAPTIONS)
    facts = json.dumps({"caption": draw.choice(("a cat", ["a", "b"], ["\ud83d", "a"]))}).encode()
    return draw.choice(([("txt", text)], [("TXT", text)], [("json", facts)], [("json", facts), ("txt", text)]))


def _apart(group: list[Entry]) -> list[Entry]:
    """Without what is of no use to a sample: nobody knows what it belongs to where it stands apart."""
    kinds = [Path(entry.name).suffix.lower() for entry in group]
    useless = {".cls", ".npy", ".md", *([".json"] if ".txt" in kinds else [])}
    return [entry for entry, kind in zip(group, kinds, strict=True) if kind not in useless]


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _reason(suffix: str) -> str:
    return (
        "image whose name has more dots"
        if "." in suffix
        else f".{suffix.lower()} is not among the formats that are read"
    )


def _reasons(name: str, kind: bytes) -> list[str]:
    if kind == tarfile.DIRTYPE:
        return []
    if kind != tarfile.REGTYPE:
        return ["not a regular file"]
    if name.startswith(("../", "/")):
        return ["unsafe name"]
    if name.startswith((".", "__")) and name != ".":
        return ["hidden file"]
    return ["name without a suffix"]


def _tar(draw: random.Random, entries: list[Entry]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=draw.choice(FORMATS[1:]), errors="surrogateescape") as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type, info.size, info.linkname = entry.kind, len(entry.content), "0.jpg"
            if draw.random() < 0.1 and tar.format == tarfile.PAX_FORMAT:
                info.pax_headers = {"comment": "x" * draw.choice((1, 600, 5000))}
            tar.addfile(info, io.BytesIO(entry.content))
    return file.getvalue()


def _damage(draw: random.Random, content: bytes) -> bytes:
    match draw.randrange(4):
        case 0:
            return content[: draw.randrange(1, len(content))]
        case 1:
            place = draw.randrange(len(content))
            return content[:place] + draw.randbytes(draw.choice((1, 10, 600))) + content[place + 1 :]
        case 2:
            return content + draw.randbytes(draw.choice((1, 512, 3000)))
        case _:
            return draw.randbytes(draw.choice((100, 3000)))


def _check_evaluation(draw: random.Random, folder: Path) -> None:
    split = folder / "set" / "test"
    split.mkdir(parents=True)
    entries, labels = [], []
    for number in range(draw.choice((1, 2, 5))):
        key = f"{draw.choice(STEMS[:6])}{number}"
        label = draw.randrange(3)
        group = [Entry(f"{key}.{draw.choice(IMAGES)}", b"image %d" % number), Entry(f"{key}.cls", b"%d" % label)]
        entries += draw.sample(group, 2)
        labels.append(label)
    refused = False
    match draw.choice(("", "", "hidden", "lacks", "alone", "doubled", "link", "damaged")):
        case "hidden":
            entries += [
                Entry(f"{where}{entry.name}", b"Mac OS X") for where in ("._", "__MACOSX/._") for entry in entries
            ]
            entries = draw.sample(entries, len(entries))
            order = [entry.content for entry in entries if entry.content.startswith(b"image")]
            labels = [labels[int(content[6:])] for content in order]
        case "lacks":
            entries.append(Entry("lacks.png", b"image"))
            refused = True
        case "alone":
            entries.append(Entry("alone.cls", b"1"))
            refused = True
        case "doubled":
            entries.append(draw.choice(entries))
            refused = True
        case "link":
            entries.append(Entry("link.png", b"", draw.choice(TYPES[:4])))
            refused = True
        case "damaged":
            refused = None
    content = _tar(draw, entries)
    (split / "0.tar").write_bytes(_damage(draw, content) if refused is None else content)
    (split / "nshards.txt").write_text("1")
    (folder / "set" / "classnames.txt").write_text("a\nb\nc")
    (folder / "set" / "zeroshot_classification_templates.txt").write_text("{c}")
    try:
        found = open_set("webdataset", folder / "set", "test", ClassPrompts())
    except UserError as error:
        if refused is False:
            raise AssertionError(f"refused: {error}") from error
        str(error).encode()
        return
    assert not refused
    if refused is None:
        assert len(found) == len(labels)
    else:
        assert found.truth.classes.labels(range(len(found))).tolist() == labels
        assert all(found[number]["image"].startswith(b"image") for number in range(len(found)))


if __name__ == "__main__":
    sys.exit(fuzz.main(check))
