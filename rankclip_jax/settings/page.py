"""Prints the documentation page of all settings: python -m rankclip_jax.settings.page > docs/settings.md."""

from rankclip_jax.input_pipeline.setting import Setting, Settings
from rankclip_jax.settings.schema import schema

_HEAD = """# Settings

Every setting of a recipe, with its default. Change one with `--config.NAME=VALUE`, or in a
[recipe](recipes.md).
On resume, settings that the parameters depend on must stay the same; those marked *free* may change.

This page is generated from the declarations: `python -m rankclip_jax.settings.page > docs/settings.md`.
"""


def page() -> str:
    """Returns the page as Markdown."""
    sections: dict[str, list[str]] = {}
    for name, setting in schema().settings().items():
        section, _, key = name.rpartition(".")
        sections.setdefault(section, []).append(_row(key, setting))
    lines = [_HEAD]
    for section, rows in sections.items():
        lines += [f"## {f'config.{section}' if section else 'config'}", "", "| name | default | meaning | values |"]
        lines += ["|---|---|---|---|", *rows, ""]
    parts = [(name, kind, registry) for registry in schema().named for name, kind in registry.items()]
    for kind in schema().entries:
        lines += _table(f"config.{kind.section}", kind)
    for name, kind, registry in parts:
        if hasattr(kind, "declared") and kind.declared():
            section = kind.section or registry.setting.rpartition(".")[0]
            lines += _table(f"config.{section}, `{name}`", kind)
    return "\n".join(lines).rstrip() + "\n"


def _table(title: str, kind: type[Settings]) -> list[str]:
    rows = [_row(key, setting) for key, setting in kind.declared().items()]
    return [f"## {title}", "", "| name | default | meaning | values |", "|---|---|---|---|", *rows, ""]


def _row(key: str, setting: Setting) -> str:
    meaning = setting.meaning + ("" if setting.fixed else " (*free*)")
    allowed = str(setting.allowed) if setting.allowed else ""
    return "| " + " | ".join(_cell(word) for word in (f"`{key}`", f"`{setting.default!r}`", meaning, allowed)) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
