"""Icon sets in Iconify's format: the npm package ``@iconify/json``, as its ``.tgz`` or unpacked.

Get it with ``npm pack @iconify/json``, or from the npm registry. Drawings are rendered with resvg, the extra ``icons``.
Each drawing gets several captions: its name with its style, its other names, and its name with each of its categories.

The source divides its drawings into splits:

- ``new_style``: the drawings of whole sets, `NEW_STYLE`, that training never sees;
- ``new_concept``: the drawings of other sets whose names contain a held-out word, one of `_WORD_SHARE` of all words;
- ``validation``: a share of all others, by a hash of their names;
- ``train``: the rest.

The manifest gets the truth that evaluation needs (see `evaluation_sets.prepared`): the weight of each word, and as
classes the names that most sets draw, with the drawings of ``new_style`` that have one of them.
"""

import collections
import dataclasses
import fnmatch
import functools
import hashlib
import importlib.util
import json
import math
import re
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..evaluation_sets.wording import words_of
from ..files import is_file, printable, read_json
from ..preparation.pairs import Pair, Skip, clean_captions, describe_file

SPLITS = ("train", "validation", "new_style", "new_concept")
# Sets that are never trained on, with the sets that draw the same pictures (Lucide began as Feather).
NEW_STYLE = ("carbon", "feather", "fluent-emoji*", "ion", "famicons", "lucide*", "mingcute", "tabler")
LICENSES = (
    "Apache-2.0", "BSD-3-Clause", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "ISC", "MIT", "Unlicense",
)  # fmt: skip
_WORD_SHARE = 0.02
_VALIDATION_SHARE = 0.02
_CLASSES = 1000
_SIZES = {"8", "12", "16", "20", "24", "28", "32", "48", "64"}  # as a last word of a name: the drawing's size
# Words of styles in names and titles, as the captions have them.
_STYLES = {
    "bold": "bold", "broken": "broken", "bulk": "bulk", "color": "colored", "colors": "colored", "dark": "dark",
    "duo": "duotone", "duotone": "duotone", "fill": "filled", "filled": "filled", "flat": "flat", "light": "light",
    "line": "outline", "linear": "outline", "outline": "outline", "outlined": "outline", "regular": "regular",
    "round": "rounded", "rounded": "rounded", "sharp": "sharp", "solid": "filled", "stroke": "outline", "thin": "thin",
    "twotone": "duotone",
}  # fmt: skip
_EXTERNAL = re.compile(
    r"<(image|script|foreignObject|style)\b|href\s*=\s*[\"'](?!#)|url\((?!['\"]?#)|<!", re.IGNORECASE
)
_LARGEST_SET, _LARGEST_DRAWING = 1 << 28, 1 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A drawing of a set: its name, its concept and style in words, and the words of its other captions.

    Args:
      set: the prefix of its set.
      name: its name in the set.
      concept: its name in words, without its style.
      style: the words of its style; may be empty.
      others: further captions.
      split: its split.
    """

    set: str
    name: str
    concept: str
    style: str
    others: tuple[str, ...]
    split: str = ""

    @property
    def key(self) -> str:
        """The key of its pair."""
        return f"{self.set}/{self.name}"

    @property
    def captions(self) -> tuple[str, ...]:
        """Its captions; the first has its concept and its style."""
        first = f"{self.concept}, {self.style}" if self.style else self.concept
        return tuple(dict.fromkeys([first, *self.others]))


@dataclasses.dataclass(frozen=True)
class IconSets:
    """The drawings of all icon sets with a permitted license.

    Args:
      path: the ``.tgz`` of the package, or the folder with its ``collections.json``.
      licenses: SPDX names of the permitted licenses.
      size: side of the rendered images in pixels.
      color: color of drawings with a single color.
      background: color behind the drawing.
      new_style: patterns of the sets held out for the split ``new_style``.
      shard_size: drawings per job.
    """

    path: Path
    licenses: tuple[str, ...] = LICENSES
    size: int = 48
    color: str = "black"
    background: str = "white"
    new_style: tuple[str, ...] = NEW_STYLE
    shard_size: int = 10_000

    def describe(self) -> dict[str, Any]:
        """See `PairSource.describe`."""
        if self.path.is_file():
            return describe_file(self.path)
        return {"folder": self.path.name, "collections": describe_file(self.path / "collections.json")}

    def job_count(self) -> int:
        """See `PairSource.job_count`."""
        return -(-len(self.drawings) // self.shard_size)

    def jobs(self) -> Iterator[list[Drawing]]:
        """See `PairSource.jobs`."""
        _renderer()
        for start in range(0, len(self.drawings), self.shard_size):
            yield list(self.drawings[start : start + self.shard_size])

    def read(self, job: list[Drawing]) -> Iterator[Pair | Skip]:
        """See `PairSource.read`."""
        by_set: dict[str, list[Drawing]] = {}
        for drawing in job:
            by_set.setdefault(drawing.set, []).append(drawing)
        read = {
            drawing: self._pair(drawing, content)
            for name, content in _contents(self.path, by_set)
            for drawing in by_set[name]
        }
        yield from (read[drawing] for drawing in job)

    def _pair(self, drawing: Drawing, content: dict[str, Any]) -> Pair | Skip:
        captions = clean_captions(drawing.captions, drawing.key)
        if isinstance(captions, Skip):
            return captions
        svg = svg_of(content, drawing.name, self.color)
        if svg is None:
            return Skip("a drawing that refers to something outside of it", drawing.key)
        try:
            image = _renderer()(
                svg_string=svg, width=self.size, height=self.size, background=self.background, skip_system_fonts=True
            )
        except ValueError as error:
            return Skip("a drawing that cannot be rendered", f"{drawing.key}: {error}")
        return Pair(drawing.key, bytes(image), captions, split=drawing.split)

    def credits(self) -> list[dict[str, str]]:
        """Returns the name, author and license of each set that is used."""
        used = {drawing.set for drawing in self.drawings}
        infos = {name: info for name, info in _collections(self.path).items() if name in used}
        return [
            {
                "set": name,
                "name": str(info.get("name", "")),
                "author": str(_object(info, "author").get("name", "")),
                "license": _license(info),
                "url": str(_object(info, "author").get("url", "")),
            }
            for name, info in infos.items()
        ]

    def truth(self) -> dict[str, Any]:
        """Returns the weight of each word, and the classes of drawings; see `evaluation_sets.prepared`."""
        words = collections.Counter[str]()
        for drawing in self.drawings:
            if drawing.split == "train":
                words.update(words_of(" ".join(drawing.captions)))
        total = sum(drawing.split == "train" for drawing in self.drawings)
        weights = {word: round(math.log(total / count), 6) for word, count in sorted(words.items())}
        drawn: dict[str, set[str]] = collections.defaultdict(set)
        in_split: dict[str, set[str]] = collections.defaultdict(set)
        for drawing in self.drawings:
            drawn[drawing.concept].add(drawing.set)
            in_split[drawing.split].add(drawing.concept)
        possible = in_split["train"] & in_split["new_style"]
        names = sorted(possible, key=lambda concept: (-len(drawn[concept]), concept))[:_CLASSES]
        number = {name: index for index, name in enumerate(names)}
        labels = {
            drawing.key: number[drawing.concept]
            for drawing in self.drawings
            if drawing.split == "new_style" and drawing.concept in number
        }
        classes = {
            "of": "new_style",
            "names": names,
            "templates": ["{}", "{}, outline", "{}, filled"],
            "labels": labels,
        }
        return {"word_weights": weights, "classes": classes}

    @functools.cached_property
    def drawings(self) -> tuple[Drawing, ...]:
        """All drawings: those for evaluation in random order, then those for training by set."""
        permitted = {name for name, info in _collections(self.path).items() if _license(info) in self.licenses}
        if not permitted:
            raise UserError(f"--licenses: no set of {self.path} has one of {', '.join(self.licenses)}.")
        found = []
        for name, content in _contents(self.path, permitted):
            is_held_out = any(fnmatch.fnmatchcase(name, pattern) for pattern in self.new_style)
            for drawing in _drawings(name, content):
                split = _split(drawing, is_held_out)
                if split:
                    found.append(dataclasses.replace(drawing, split=split))
        held_out = sorted((drawing for drawing in found if drawing.split != "train"), key=lambda each: _share(each.key))
        return (*held_out, *(drawing for drawing in found if drawing.split == "train"))


def svg_of(content: dict[str, Any], name: str, color: str) -> str | None:
    """Returns a drawing as SVG with a square view, or None if it refers to files, scripts or fonts.

    Args:
      content: its set.
      name: its name.
      color: the color of parts that have none of their own.
    """
    icon = content["icons"][name]
    body = icon.get("body")
    if not isinstance(body, str) or len(body) > _LARGEST_DRAWING or _EXTERNAL.search(body):
        return None
    left, top = (_number(icon.get(key, content.get(key, 0)), 0) for key in ("left", "top"))
    width, height = (_number(icon.get(key, content.get(key, 16)), 16) for key in ("width", "height"))
    side = max(width, height)
    view = f"{left - (side - width) / 2:g} {top - (side - height) / 2:g} {side:g} {side:g}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view}" color="{color}">{body}</svg>'
    )


def _split(drawing: Drawing, is_held_out: bool) -> str:
    """Returns the drawing's split; empty for held-out words in held-out sets, which are neither."""
    is_new = any(_share(f"word {word}") < _WORD_SHARE for word in drawing.concept.split() if _is_concept_word(word))
    if is_held_out:
        return "" if is_new else "new_style"
    if is_new:
        return "new_concept"
    return "validation" if _share(drawing.key) < _VALIDATION_SHARE else "train"


def _is_concept_word(word: str) -> bool:
    return len(word) > 2 and word.isalpha() and word not in _STYLES


def _share(text: str) -> float:
    """Returns a number in [0, 1) that is drawn by a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def _drawings(name: str, content: dict[str, Any]) -> list[Drawing]:
    """Returns the visible drawings of a set; of one in several sizes, only the largest."""
    info = _object(content, "info")
    default = "colored" if info.get("palette") is True else "outline" if "Uses Stroke" in _list(info, "tags") else ""
    others = _other_captions(content)
    largest: dict[tuple[str, str], tuple[int, Drawing]] = {}
    for icon, facts in _object(content, "icons").items():
        if not isinstance(facts, dict) or facts.get("hidden"):
            continue
        concept, style, size = _parse(icon, content)
        drawing = Drawing(name, icon, concept, style or default, others(icon, concept), "")
        key = (concept, style)
        if key not in largest or (size and size > largest[key][0]):
            largest[key] = size, drawing
    return sorted((drawing for _, drawing in largest.values()), key=lambda drawing: drawing.name)


def _parse(icon: str, content: dict[str, Any]) -> tuple[str, str, int]:
    """Returns the concept, the style and the size that a drawing's name tells; size 0: none."""
    style, name = "", icon
    for affix, title in sorted(_object(content, "suffixes").items(), key=lambda item: -len(item[0])):
        if not affix or name.endswith(f"-{affix}"):
            style, name = str(title), name.removesuffix(f"-{affix}") if affix else name
            break
    for affix, title in sorted(_object(content, "prefixes").items(), key=lambda item: -len(item[0])):
        if affix and name.startswith(f"{affix}-"):
            style, name = str(title), name.removeprefix(f"{affix}-")
            break
    sizes = [int(digits) for digits in re.findall(r"\d+", style)]
    style_words = [word for word in re.findall(r"[a-z]+", style.lower()) if word not in ("x", "px")]
    words = [word for word in name.split("-") if not re.fullmatch(r"u[0-9a-f]{4,5}", word)] or name.split("-")
    while len(words) > 1 and (words[-1] in _STYLES or words[-1] in _SIZES):
        if words[-1] in _SIZES:
            sizes.append(int(words[-1]))
        else:
            style_words.insert(0, words[-1])
        words.pop()
    style_words = [_STYLES.get(word, word) for word in style_words]
    return " ".join(words), " ".join(dict.fromkeys(style_words)), max(sizes, default=0)


def _other_captions(content: dict[str, Any]) -> Callable[[str, str], tuple[str, ...]]:
    """Returns the function from a drawing's name and concept to its captions from other names and categories."""
    names, categories = collections.defaultdict(list), collections.defaultdict(list)
    for alias, facts in _object(content, "aliases").items():
        if isinstance(facts, dict) and facts.keys() <= {"parent", "hidden"}:
            names[str(facts.get("parent"))].append(_parse(alias, content)[0])
    for category, icons in _object(content, "categories").items():
        for icon in icons if isinstance(icons, list) else ():
            categories[str(icon)].append(" ".join(re.findall(r"[^\W_]+", category.lower())))
    return lambda icon, concept: (*names[icon], *(f"{concept}, {category}" for category in categories[icon]))


def _collections(path: Path) -> dict[str, dict[str, Any]]:
    """Returns what the package says of each of its sets, by prefix."""
    for _, content in _members(path, {"collections.json"}):
        return {name: info for name, info in content.items() if isinstance(info, dict)}
    raise UserError(f"--input: {path}: no collections.json. Use the .tgz of npm pack @iconify/json, or its folder.")


def _contents(path: Path, sets: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the sets with these prefixes, in the order of the package."""
    for name, content in _members(path, {f"json/{name}.json" for name in sets}):
        yield name.removeprefix("json/").removesuffix(".json"), content


def _members(path: Path, names: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the JSON objects in files of the package."""
    if path.is_dir():
        for name in sorted(names):
            if is_file(path / name):
                yield name, read_json(path / name, limit=_LARGEST_SET)
        return
    try:
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                name = member.name.partition("/")[2]
                if name not in names or not member.isfile():
                    continue
                if member.size > _LARGEST_SET:
                    raise UserError(f"{printable(name)} has {member.size:,} bytes; expected at most {_LARGEST_SET:,}")
                file = tar.extractfile(member)
                assert file is not None
                content = json.loads(file.read())
                if not isinstance(content, dict):
                    raise UserError(f"{printable(name)}: expected a JSON object")
                yield name, content
    except (tarfile.TarError, zlib.error, OSError, EOFError, ValueError, RecursionError, UserError) as error:
        raise UserError(
            f"--input: {path}: {printable(error)}. Expected the .tgz of npm pack @iconify/json; fetch it again."
        ) from error


def _object(content: dict[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key)
    return value if isinstance(value, dict) else {}


def _list(content: dict[str, Any], key: str) -> list[Any]:
    value = content.get(key)
    return value if isinstance(value, list) else []


def _license(info: dict[str, Any]) -> str:
    return str(_object(info, "license").get("spdx", ""))


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= abs(value) < 1e6 else default


@functools.cache
def _renderer() -> Callable[..., bytes]:
    if importlib.util.find_spec("resvg_py") is None:
        raise UserError("--source iconify needs the package resvg-py. Install it with: pip install resvg-py")
    import resvg_py

    return resvg_py.svg_to_bytes
