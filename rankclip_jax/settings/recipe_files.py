"""Locates recipe files: paths, and the names of built-in recipes."""

import functools
import os
import runpy
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parents[1]
# The folder at the top of a checkout, or else the copy in the installed package.
FOLDER = (_HERE / "configs" if (_HERE / "configs").is_dir() else _HERE.parent / "configs").resolve()


@functools.cache
def run(name: str) -> dict[str, Any]:
    """Runs the file of a built-in recipe, and returns its globals."""
    return runpy.run_path(str(FOLDER / f"{name}.py"))


def names() -> list[str]:
    """Returns the names of the built-in recipes, such as ``demo`` and ``studies/icons``."""
    paths = [path for path in FOLDER.rglob("*.py") if path.stem not in ("base", "__init__")]
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in paths)


def find(given: str) -> Path:
    """Returns the file of a recipe: a path, or a built-in recipe such as ``demo`` or ``configs/demo.py``."""
    path = Path(os.path.expanduser(given))
    name = given.removeprefix("configs/").removesuffix(".py")
    return path if path.is_file() or name not in names() else FOLDER / f"{name}.py"
