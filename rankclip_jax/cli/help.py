"""What ``--help`` prints: what a command does, its flags, and the settings where it takes a recipe."""

import re
import sys
import textwrap
from collections.abc import Iterator

from absl import flags

from rankclip_jax.cli.flags import is_recipe

_WIDTH = 100
_SHARED = "rankclip_jax.cli.flags"  # which defines flags for several commands
_TAKES = {
    "bool": "",
    "int": "=NUMBER",
    "float": "=NUMBER",
    "comma separated list of strings": "=A,B",
}


def text() -> str:
    """The help of the command that this process runs."""
    described = (sys.modules["__main__"].__doc__ or "").strip()
    lines = [described, "", "Flags:"]
    for flag in own_flags():
        lines += _describe(flag)
    if any(map(is_recipe, own_flags())):
        lines += ["", *_settings()]
    return "\n".join(lines)


def own_flags() -> list[flags.Flag]:
    """The flags of the command, without those of the libraries it uses."""
    by_module = flags.FLAGS.flags_by_module_dict()
    return [flag for module in (_SHARED, sys.argv[0]) for flag in by_module.get(module, [])]


def _describe(flag: flags.Flag) -> Iterator[str]:
    values = flag.parser.enum_values if isinstance(flag, flags.EnumFlag) else []
    choices = (
        f"={'|'.join(values)}"
        if values
        else "=RECIPE"
        if flag.name == "config"
        else _TAKES.get(flag.flag_type(), "=VALUE")
    )
    shown = flag.default in (None, False) or is_recipe(flag)
    meaning = re.sub(r"^<.*?>: ", "", flag.help) + ("" if shown else f" (default: {flag.default_as_str})")
    yield f"  --{flag.name}{choices}"
    yield from textwrap.wrap(meaning, _WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)


def _settings() -> Iterator[str]:
    """Every setting, with its default and meaning."""
    from rankclip_jax.settings.schema import schema  # here, since importing JAX takes a second

    yield "Settings of the recipe, each changed by --config.NAME=VALUE, such as --config.train.steps=500. The defaults"
    yield "are shown; a recipe gives some of them other values. Their ranges are in docs/settings.md."
    for name, setting in schema().settings().items():
        yield f"  config.{name} = {setting.default!r}  # {setting.meaning}"
