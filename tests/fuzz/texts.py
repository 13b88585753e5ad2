"""Text and JSON files drawn at random, of every kind that evaluation sets, suites and preparation read.

Whatever they hold, an evaluation set is opened or refused with a `UserError`, and a caption is kept or counted. What is
said can be written to any terminal.
"""

import io
import json
import random
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from rankclip_jax.evaluation import suite
from rankclip_jax.input_pipeline import tokenizer
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.evaluation_sets import open_set
from rankclip_jax.input_pipeline.evaluation_sets.wording import ClassPrompts
from rankclip_jax.input_pipeline.preparation.folder import Folder
from rankclip_jax.input_pipeline.preparation.pairs import Pair
from rankclip_jax.input_pipeline.preparation.webdataset import WebDataset
from tests import fuzz

BYTES = (
    b"", b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xff", b"\xed\xa0\xbd", b"\n", b"\r\n\r\n", b"[" * 3000, b"{" * 3000,
    b"9" * 5000, b"-1", b"1e400", b"NaN", b"null", b"true", b'"a"', b"[]", b"{}", b"[[]]", b'{"a": 1}', b"\x1b[2J",
    b"&#" + b"9" * 5000 + b";", "\u2028é猫\u202e".encode(), b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"'" * 30, b'"',
    b"../../etc/passwd", b"/etc/passwd", b"x" * 300, b"\\ud83d", b"1" * 30, b"0", b"7",
)  # fmt: skip
WORDS = (
    None, True, 0, -1, 7, 1.5, 10**30, float("nan"), "", " ", "a", "n 1", "0.png", "\ud83d", "a\0b", "x" * 300, "../x",
    "/etc/passwd", ".", "{}", "{c}", "{0.__class__}", [], {}, ["a"], [["a"]], {"a": 1}, "test", "webdataset", "folder",
)  # fmt: skip
NPY = b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, 'shape': (%d,), }".ljust(129) + b"\n"


def check(draw: random.Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        draw.choice((_webdataset, _class_folder, _image_list, _sugar_crepe, _winogavil, _suite, _captions))(
            draw, Path(folder)
        )


def _content(draw: random.Random, good: bytes) -> bytes:
    """The good content, or another: damaged, or of another form."""
    match draw.randrange(4):
        case 0:
            return draw.choice(BYTES)
        case 1:
            place = draw.randrange(len(good) + 1)
            return good[:place] + draw.choice(BYTES) + good[place + draw.choice((0, 1, 9)) :]
        case 2:
            return draw.choice((b"\xef\xbb\xbf", b"")) + good
        case _:
            return b"".join(draw.choice((*BYTES, good, b"\n", b",", b" ")) for _ in range(draw.randrange(6)))


def _json(draw: random.Random, good: object) -> bytes:
    """The same for JSON, in which a value may become another too."""
    if draw.random() < 0.4:
        return _content(draw, json.dumps(good).encode())
    return json.dumps(_altered(draw, good)).encode()


def _altered(draw: random.Random, value: object) -> object:
    if draw.random() < 0.15:
        return draw.choice(WORDS)
    if isinstance(value, dict):
        return {(key if draw.random() < 0.95 else "a"): _altered(draw, one) for key, one in value.items()}
    return [_altered(draw, one) for one in value] if isinstance(value, list) else value


def _opens_or_refuses(open_it: Callable[[], object]) -> object:
    try:
        return open_it()
    except UserError as error:
        text = str(error)
        assert "\x1b" not in text
        text.encode()
        return None


def _wording(draw: random.Random, folder: Path) -> ClassPrompts:
    """Mostly the set's own; else of files of any form."""
    if draw.random() < 0.7:
        return ClassPrompts()
    (folder / "names.json").write_bytes(_json(draw, ["a", "b"]))
    (folder / "templates.json").write_bytes(_json(draw, draw.choice((["a {c}"], {"a": ["x"], "b": ["y"]}))))
    return ClassPrompts(draw.choice(("", "names.json")), draw.choice(("", "templates.json")), folder)


def _open(draw: random.Random, kind: str, folder: Path, path: Path | None = None) -> None:
    wording = _wording(draw, folder)
    found = _opens_or_refuses(lambda: open_set(kind, path or folder, "test", wording))
    if found is not None and found.truth.classes is not None:
        tokenizer.tokenize([sentence for row in found.truth.classes.prompts[:9] for sentence in row[:9]])
        found.truth.classes.labels(range(len(found)))
    if found is not None:
        tokenizer.tokenize([text for number in range(min(len(found), 9)) for text in found[number]["text"]])


def _names(draw: random.Random, folder: Path) -> None:
    for name, good in (("classnames.txt", b"a\nb\n"), ("zeroshot_classification_templates.txt", b"a {c}\nb {}\n")):
        (folder / name).write_bytes(_content(draw, good) if draw.random() < 0.5 else good)


def _webdataset(draw: random.Random, folder: Path) -> None:
    (folder / "test").mkdir()
    kind, suffix, good = draw.choice(
        (("classification", "cls", b"1"), ("multilabel", "npy", NPY % 2 + b"\0" * 16), ("retrieval", "txt", b"a\nb"))
    )
    with tarfile.open(folder / "test" / "0.tar", "w") as tar:
        for number in range(3):
            for name, content in (("png", b"image"), (suffix, _content(draw, good) if draw.random() < 0.3 else good)):
                info = tarfile.TarInfo(f"{number}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    for name, words in (("test/nshards.txt", b"1\n"), ("dataset_type.txt", kind.encode())):
        (folder / name).write_bytes(_content(draw, words) if draw.random() < 0.3 else words)
    _names(draw, folder)
    _open(draw, "webdataset", folder)


def _class_folder(draw: random.Random, folder: Path) -> None:
    for name in ("a", "b", draw.choice(("\udce9", "\x1b", ".hidden", "x" * 200))):
        (folder / "test" / name).mkdir(parents=True)
        (folder / "test" / name / "0.png").write_bytes(b"")
    _names(draw, folder)
    _open(draw, "folder", folder)


def _image_list(draw: random.Random, folder: Path) -> None:
    good = draw.choice((b"filepath,label,split\n0.png,1,test\n1.png,0,test\n", b"filepath\ttitle\n0.png\ta\n"))
    (folder / "x.csv").write_bytes(_content(draw, good))
    _names(draw, folder)
    _open(draw, "csv", folder, folder / "x.csv")


def _sugar_crepe(draw: random.Random, folder: Path) -> None:
    (folder / "0.png").write_bytes(b"")
    row = {"filename": "0.png", "caption": "a", "negative_caption": "b"}
    (folder / "test.json").write_bytes(_json(draw, draw.choice(({"0": row, "1": row}, [row]))))
    _open(draw, "sugar_crepe", folder)


def _winogavil(draw: random.Random, folder: Path) -> None:
    (folder / "winogavil_images").mkdir()
    for name in ("n 1", "n 2"):
        (folder / "winogavil_images" / f"{name}.jpg").write_bytes(b"")
    lists = [_json(draw, ["n 1", "n 2"]), _json(draw, ["n 2"])]
    quoted = [b'"%s"' % one.replace(b'"', b'""') for one in lists]
    good = b"cue,candidates,associations\nowl," + b",".join(quoted) + b"\n"
    (folder / "test.csv").write_bytes(_content(draw, good) if draw.random() < 0.3 else good)
    _open(draw, "winogavil", folder)


def _suite(draw: random.Random, folder: Path) -> None:
    task = {"name": "a", "task": "zero_shot", "format": "webdataset", "path": "x", "templates": "t.txt", "shots": 1}
    (folder / "suite.json").write_bytes(_json(draw, {"name": "s", "tasks": [task, task | {"name": "b"}]}))
    for one in _opens_or_refuses(lambda: suite.read(folder / "suite.json")) or []:
        _opens_or_refuses(lambda one=one: open_set(one.format, folder / one.path, one.split, ClassPrompts()))


def _captions(draw: random.Random, folder: Path) -> None:
    """A caption in a tar and in a folder: the same text or the same reason."""
    text = _content(draw, "a cat\u200b 猫".encode()).replace(b"\n", b"").replace(b"\r", b"")
    facts = _json(draw, {"caption": draw.choice(("a", ["a", "b"])), "a": "b"})
    with tarfile.open(folder / "0.tar", "w") as tar:
        for name, content in (("0.png", b"image"), ("0.txt", text), ("1.png", b"image"), ("1.json", facts)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (folder / "0.png").write_bytes(b"image")
    (folder / "0.txt").write_bytes(text)
    first, second = list(WebDataset(folder).read(folder / "0.tar"))
    (other,) = Folder(folder, 9).read(["0.png"])
    assert type(first) is type(other)
    assert (first.captions if isinstance(first, Pair) else first.reason) == (
        other.captions if isinstance(other, Pair) else other.reason
    )
    for pair in (first, second):
        if isinstance(pair, Pair):
            tokenizer.tokenize(pair.captions)
            "".join(pair.captions).encode()


if __name__ == "__main__":
    sys.exit(fuzz.main(check))
