"""Where the recipes that come with the system are, and which file a name means."""

import functools
import os
import runpy
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parents[1]
# In a checkout the folder at its top, else the copy in the package.
FOLDER = (_HERE / "configs" if (_HERE / "configs").is_dir() else _HERE.parent / "configs").resolve()


@functools.cache
def run(name: str) -> dict[str, Any]:
    """What the file of a recipe that comes with the system defines."""
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
