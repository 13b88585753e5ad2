"""The console command `rankclip-jax`: lists the commands of the package, and runs one as `python -m` does."""

import ast
import os
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = {"rankclip_jax": _PACKAGE, "rankclip_jax.input_pipeline": _PACKAGE / "input_pipeline"}
_USAGE = """Usage: rankclip-jax COMMAND [FLAGS ...]

Runs a command as `python -m` does; `rankclip-jax COMMAND --help` lists its flags.

Commands:"""


def main() -> None:
    """Replaces this process by the command's own; lists all commands where none is named.

    The exit status is the command's, and 2 for a command that does not exist.
    """
    name, *arguments = sys.argv[1:] or ["--help"]
    known = modules()
    if name in ("--help", "-h"):
        width = max(map(len, known))
        print(_USAGE, *(f"  {name:{width}}  {_summary(path)}" for name, (_, path) in known.items()), sep="\n")
        return
    if name not in known:
        print(f"rankclip-jax: unknown command {name!r}; choose from {', '.join(known)}.", file=sys.stderr)
        sys.exit(2)
    module, _ = known[name]
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


def modules() -> dict[str, tuple[str, Path]]:
    """Each command's module and file: the modules with a `__main__` part. None of them is imported."""
    return {
        path.stem: (f"{package}.{path.stem}", path)
        for package, folder in _FOLDERS.items()
        for path in sorted(folder.glob("*.py"))
        if 'if __name__ == "__main__":' in path.read_text(encoding="utf8")
    }


def _summary(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf8"))) or "").partition("\n")[0]
