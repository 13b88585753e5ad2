"""The ``--help`` page: a command's description, its flags, and the settings if it takes a recipe."""

import re
import sys
import textwrap
from collections.abc import Iterator

from absl import flags

from rankclip_jax.cli.flags import is_recipe

_WIDTH = 100
_SHARED = "rankclip_jax.cli.flags"  # defines the flags that several commands share
_PLACEHOLDERS = {
    "bool": "",
    "int": "=NUMBER",
    "float": "=NUMBER",
    "comma separated list of strings": "=A,B",
}


def text() -> str:
    """Returns the help page of the command that this process runs."""
    description = (sys.modules["__main__"].__doc__ or "").strip()
    lines = [description, "", "Flags:"]
    for flag in own_flags():
        lines += _describe(flag)
    if any(map(is_recipe, own_flags())):
        lines += ["", *_settings()]
    return "\n".join(lines)


def own_flags() -> list[flags.Flag]:
    """Returns the command's flags, without those of libraries."""
    by_module = flags.FLAGS.flags_by_module_dict()
    return [flag for module in (_SHARED, sys.argv[0]) for flag in by_module.get(module, [])]


def _describe(flag: flags.Flag) -> Iterator[str]:
    values = flag.parser.enum_values if isinstance(flag, flags.EnumFlag) else []
    choices = (
        f"={'|'.join(values)}"
        if values
        else "=RECIPE"
        if flag.name == "config"
        else _PLACEHOLDERS.get(flag.flag_type(), "=VALUE")
    )
    has_no_default = flag.default in (None, False) or is_recipe(flag)
    meaning = re.sub(r"^<.*?>: ", "", flag.help) + ("" if has_no_default else f" (default: {flag.default_as_str})")
    yield f"  --{flag.name}{choices}"
    yield from textwrap.wrap(meaning, _WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)


def _settings() -> Iterator[str]:
    """Yields a line for every setting, with its default and meaning."""
    from rankclip_jax.settings.schema import schema  # here, since importing JAX takes a second

    yield "Settings of the recipe. Override one with --config.NAME=VALUE, such as --config.train.steps=500. The values"
    yield "below are the defaults, which the recipe may change. docs/settings.md lists the allowed ranges."
    for name, setting in schema().settings().items():
        yield f"  config.{name} = {setting.default!r}  # {setting.meaning}"
