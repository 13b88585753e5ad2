"""The console command `rankclip-jax`: lists the package's commands and runs one like `python -m`."""

import ast
import os
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = {"rankclip_jax": _PACKAGE, "rankclip_jax.input_pipeline": _PACKAGE / "input_pipeline"}
_USAGE = """Usage: rankclip-jax COMMAND [FLAGS ...]

Runs a command like `python -m`; `rankclip-jax COMMAND --help` lists its flags.

Commands:"""


def main() -> None:
    """Replaces this process with the named command, or lists all commands if none is named.

    Exits with the command's status, or with 2 for an unknown command.
    """
    name, *arguments = sys.argv[1:] or ["--help"]
    commands = modules()
    if name in ("--help", "-h"):
        width = max(map(len, commands))
        print(_USAGE, *(f"  {name:{width}}  {_summary(path)}" for name, (_, path) in commands.items()), sep="\n")
        return
    if name not in commands:
        print(f"rankclip-jax: unknown command {name!r}; choose from {', '.join(commands)}.", file=sys.stderr)
        sys.exit(2)
    module, _ = commands[name]
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


def modules() -> dict[str, tuple[str, Path]]:
    """Returns each command's module and file: every module with a `__main__` block. Imports none of them."""
    return {
        path.stem: (f"{package}.{path.stem}", path)
        for package, folder in _FOLDERS.items()
        for path in sorted(folder.glob("*.py"))
        if 'if __name__ == "__main__":' in path.read_text(encoding="utf8")
    }


def _summary(path: Path) -> str:
    """Returns the first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf8"))) or "").partition("\n")[0]
