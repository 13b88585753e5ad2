"""Recipes: where the ones that come with the system are, and the base that each begins with."""

import functools
import os
import runpy
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

FOLDER = (Path(__file__).parents[1] / "configs").resolve()  # in a checkout, the folder at its top


def base() -> ConfigDict:
    """Every setting with its default, as listed in ``configs/base.py``."""
    return _functions("base")["get_config"]()


@functools.cache
def _functions(name: str) -> dict:
    return runpy.run_path(str(FOLDER / f"{name}.py"))


def names() -> list[str]:
    """The recipes that come with the system."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("base", "__init__"))


def find(given: str) -> Path:
    """The file of a recipe: a path, or one that comes with the system, as ``demo`` or ``configs/demo.py``."""
    path = Path(os.path.expanduser(given))
    name = path.name.removesuffix(".py")
    if not path.is_file() and given in (name, f"configs/{name}.py", f"configs/{name}") and name in names():
        return FOLDER / f"{name}.py"
    return path


def flatten(config: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted names and values: ``("train.steps", 500)``."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
